/* The page of `kiln inspect --html`: one self-contained file without scripts. Text from models is untrusted and always
 * escaped. */
#include "html.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222;background:#fff}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;padding:.2em .6em;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}"
    "td.n,th.n{text-align:right}td.bar{width:30%}td.bar i{display:block;height:.9em;background:#d9642c}"
    "pre{background:#f5f4f2;padding:1em;overflow:auto;max-height:40em;font-size:12px}summary{cursor:pointer;font-"
    "weight:600}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}pre{background:#262626}th,td{border-color:#"
    "444}}";

static void put_escaped(FILE *file, const char *s) {
  for (; *s; s++) {
    switch (*s) {
      case '<':
        fputs("&lt;", file);
        break;
      case '>':
        fputs("&gt;", file);
        break;
      case '&':
        fputs("&amp;", file);
        break;
      case '"':
        fputs("&quot;", file);
        break;
      default:
        fputc(*s, file);
    }
  }
}

static void put_io(FILE *file, const char *role, const kiln_io_info *info) {
  fprintf(file, "<tr><td>%s<td>", role);
  put_escaped(file, info->name);
  fprintf(file, "<td>%s<td>", kiln_dtype_name(info->dtype));
  for (int i = 0; i < info->rank; i++) {
    if (i) fputs(" &times; ", file);
    if (info->min[i] == info->max[i])
      fprintf(file, "%lld", (long long)info->min[i]);
    else if (info->max[i] == INT64_MAX)
      fprintf(file, "%lld or more", (long long)info->min[i]);
    else
      fprintf(file, "%lld&ndash;%lld", (long long)info->min[i], (long long)info->max[i]);
  }
  fputs("</tr>\n", file);
}

static void put_interface(FILE *file, const kiln_engine *engine) {
  kiln_io_info info;
  fputs("<h2>Inputs and outputs</h2><table><tr><th>role<th>name<th>dtype<th>shape</tr>\n", file);
  for (size_t i = 0; i < kiln_engine_input_count(engine); i++) {
    if (kiln_engine_input(engine, i, &info) == KILN_OK) put_io(file, "input", &info);
  }
  for (size_t i = 0; i < kiln_engine_output_count(engine); i++) {
    if (kiln_engine_output(engine, i, &info) == KILN_OK) put_io(file, "output", &info);
  }
  fputs("</table>\n", file);
}

enum { PROFILE_RUNS = 5 };

static void put_steps(FILE *file, const kiln_context *context) {
  kiln_step_info info;
  double total = 0, largest = 0;
  const size_t n = kiln_context_step_count(context);
  for (size_t i = 0; i < n; i++) {
    if (kiln_context_step(context, i, &info) != KILN_OK) continue;
    total += info.seconds;
    if (info.seconds > largest) largest = info.seconds;
  }
  fprintf(
      file,
      "<h2>Steps</h2><p>%zu steps, %.3f ms in all (mean of %d runs on this machine)</p>\n"
      "<table><tr><th class=n>&micro;s<th class=n>%%<th class=n>GFLOP/s<th>time<th>operator<th>kernel<th>module</tr>\n",
      n, 1e3 * total / PROFILE_RUNS, PROFILE_RUNS);
  for (size_t i = 0; i < n; i++) {
    if (kiln_context_step(context, i, &info) != KILN_OK) continue;
    const double one = info.seconds / PROFILE_RUNS;
    fprintf(file,
            "<tr><td class=n>%.1f<td class=n>%.1f<td class=n>%.1f<td class=bar><i style=\"width:%.1f%%\"></i><td>",
            1e6 * one, total > 0 ? 100 * info.seconds / total : 0, one > 0 ? 1e-9 * info.flops / one : 0,
            largest > 0 ? 100 * info.seconds / largest : 0);
    put_escaped(file, info.op);
    fputs("<td>", file);
    put_escaped(file, info.tactic);
    fputs("<td>", file);
    put_escaped(file, info.name);
    fputs("</tr>\n", file);
  }
  fputs("</table>\n", file);
}

/* Runs on random inputs at the opt shapes, so that the page can show times. */
static bool put_profile(FILE *file, const kiln_engine *engine) {
  const size_t n_out = kiln_engine_output_count(engine);
  cli_tensor *inputs = calloc(CLI_MAX_IO, sizeof *inputs);
  kiln_tensor *in = calloc(CLI_MAX_IO, sizeof *in), *out = calloc(n_out + 1, sizeof *out);
  kiln_context *context = NULL;
  size_t n_in = 0;
  bool ok = inputs && in && out;
  if (!ok) cli_error(CLI_FAILED, "out of memory");
  ok = ok && cli_inputs_create(engine, 0, NULL, true, inputs, &n_in);
  for (size_t i = 0; ok && i < n_in; i++) in[i] = inputs[i].tensor;
  kiln_status status = ok ? kiln_context_create(engine, &context) : KILN_OK;
  for (int i = 0; ok && status == KILN_OK && i <= PROFILE_RUNS; i++) {
    if (i == 1) kiln_context_profile(context, 1); /* the first run warms up */
    memset(out, 0, n_out * sizeof *out);
    status = kiln_context_run(context, in, n_in, out, n_out);
  }
  if (ok && status != KILN_OK) {
    cli_fail();
    ok = false;
  }
  if (ok) put_steps(file, context);
  kiln_context_destroy(context);
  if (inputs) cli_inputs_free(inputs, n_in);
  free(inputs);
  free(in);
  free(out);
  return ok;
}

static bool put_report(FILE *file, const kiln_engine *engine, const char *title, kiln_report what, bool open) {
  char *text = NULL;
  if (kiln_engine_report(engine, what, &text) != KILN_OK) {
    cli_fail();
    return false;
  }
  fprintf(file, "<h2>%s</h2><details%s><summary>text</summary><pre>", title, open ? " open" : "");
  put_escaped(file, text);
  fputs("</pre></details>\n", file);
  kiln_free(text);
  return true;
}

bool html_write(const char *path, const char *title, const kiln_engine *engine) {
  FILE *file = fopen(path, "w");
  if (!file) {
    cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    return false;
  }
  fputs("<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>",
        file);
  put_escaped(file, title);
  fprintf(file, "</title><style>%s</style>\n<h1>", style);
  put_escaped(file, title);
  fputs("</h1><p>target ", file);
  put_escaped(file, kiln_engine_target(engine));
  fprintf(file, ", Kiln %s</p>\n", kiln_version());
  put_interface(file, engine);
  bool ok = put_report(file, engine, "Summary", KILN_REPORT_SUMMARY, true) && put_profile(file, engine) &&
            put_report(file, engine, "Plan", KILN_REPORT_PLAN, false) &&
            put_report(file, engine, "Memory", KILN_REPORT_MEMORY, false) &&
            put_report(file, engine, "Refused kernels", KILN_REPORT_WHY, false) &&
            put_report(file, engine, "Graph", KILN_REPORT_GRAPH, false);
  fputs("</html>\n", file);
  const bool written = !ferror(file);
  if (fclose(file) != 0 || !written) {
    cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    ok = false;
  }
  if (ok)
    printf("wrote %s\n", path);
  else
    remove(path);
  return ok;
}
