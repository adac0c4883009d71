/* kiln inspect: what a model or an engine is, as text or as a page. */
#include <stdlib.h>
#include <string.h>

#include "build_options.h"
#include "cli.h"
#include "html.h"

static int print_report(const char *path, bool model, const kiln_engine *engine, kiln_report what) {
  char *text = NULL;
  const kiln_status status = model ? kiln_model_report(path, what, &text) : kiln_engine_report(engine, what, &text);
  if (status != KILN_OK) return cli_fail();
  fputs(text, stdout);
  if (*text && text[strlen(text) - 1] != '\n') putchar('\n');
  kiln_free(text);
  return CLI_OK;
}

static int inspect(const char *path, kiln_report what, const char *html, const kiln_build_options *options) {
  const bool model = cli_is_model(path);
  /* The graph and the summary of a model come from the file as it is; a plan needs a build. */
  if (model && !html && (what == KILN_REPORT_SUMMARY || what == KILN_REPORT_GRAPH))
    return print_report(path, true, NULL, what);
  kiln_engine *engine = NULL;
  if (cli_open(path, options, &engine) != KILN_OK) return cli_fail();
  int result;
  if (html)
    result = html_write(html, path, engine) ? CLI_OK : CLI_FAILED;
  else
    result = print_report(path, false, engine, what);
  kiln_engine_destroy(engine);
  return result;
}

static int run(int argc, char **argv) {
  enum { OPT_HTML = OPT_OWN, OPT_REPORT };
  static const struct option options[] = {BUILD_OPTIONS,
                                          {"summary", no_argument, NULL, OPT_REPORT + KILN_REPORT_SUMMARY},
                                          {"graph", no_argument, NULL, OPT_REPORT + KILN_REPORT_GRAPH},
                                          {"plan", no_argument, NULL, OPT_REPORT + KILN_REPORT_PLAN},
                                          {"memory", no_argument, NULL, OPT_REPORT + KILN_REPORT_MEMORY},
                                          {"why", no_argument, NULL, OPT_REPORT + KILN_REPORT_WHY},
                                          {"html", required_argument, NULL, OPT_HTML},
                                          {NULL, 0, NULL, 0}};
  build_options b;
  build_options_init(&b);
  kiln_report what = KILN_REPORT_SUMMARY;
  const char *html = NULL;
  int option, result = CLI_USAGE;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    const int used = build_options_parse(&b, option, optarg);
    if (option == OPT_HTML)
      html = optarg;
    else if (option >= OPT_REPORT)
      what = (kiln_report)(option - OPT_REPORT);
    else if (used <= 0) {
      if (used == 0) cli_usage(&cli_inspect);
      goto done;
    }
  }
  if (argc - optind != 1) {
    cli_error(CLI_USAGE, "expected one MODEL or ENGINE file, got %d", argc - optind);
    cli_usage(&cli_inspect);
    goto done;
  }
  if (!build_options_finish(&b)) goto done;
  result = inspect(argv[optind], what, html, &b.options);
done:
  build_options_free(&b);
  return result;
}

const cli_command cli_inspect = {
    "inspect", "show a model's or an engine's graph, plan, memory, or what was refused",
    "Usage: kiln inspect MODEL|ENGINE [--graph|--plan|--memory|--why] [--html FILE] [BUILD OPTIONS]\n\n"
    "Prints a summary, or one of the reports. A model is built first where the report needs a plan. The summary of a\n"
    "TorchScript file lists methods, example inputs, tensors, and operators with counts; those that are not supported\n"
    "with the line of the Python source.\n\nOptions:\n"
    "  --graph       the portable graph, as text\n"
    "  --plan        the planned graph with the kernel of each node\n"
    "  --memory      where each value lies in the arena\n"
    "  --why         which kernels were refused, and why\n"
    "  --html FILE   write all of it, with the time of each step measured here, as a page\n"
    "  and those of 'kiln build', such as --target cpu:avx2\n",
    run};
