/* The `kiln` program: picks the command and prints help. Exit status: 0 done, 1 the operation failed, 2 usage. */
#include <kiln/kiln_ext.h>
#include <stdbool.h>
#include <string.h>

#include "cli.h"

static const cli_command *const commands[] = {&cli_build, &cli_run,   &cli_bench, &cli_inspect,  &cli_diff,
                                              &cli_ops,   &cli_refit, &cli_tune,  &cli_torchtrtc};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_help(FILE *file) {
  fprintf(file,
          "Kiln compiles PyTorch models into inference engines and runs them.\n\n"
          "Usage: kiln COMMAND [ARGUMENTS]\n\nCommands:\n");
  for (int i = 0; i < COMMAND_COUNT; i++) fprintf(file, "  %-9s %s\n", commands[i]->name, commands[i]->summary);
  fprintf(file,
          "\nkiln COMMAND --help   tells about one command\n"
          "kiln --version        prints the version\n"
          "--plugin FILE         with any command: loads custom operators and rules (a shared object) first\n\n"
          "Exit status: 0 done, 1 the operation failed (reason on stderr), 2 wrong usage.\n");
}

/* Takes --plugin FILE out of the arguments, wherever it stands before "--", and loads the file. */
static int load_plugins(int *argc, char **argv) {
  int kept = 1;
  bool options = true;
  for (int i = 1; i < *argc; i++) {
    const char *path = NULL;
    options = options && strcmp(argv[i], "--") != 0;
    if (options && strncmp(argv[i], "--plugin=", 9) == 0) {
      path = argv[i] + 9;
    } else if (options && strcmp(argv[i], "--plugin") == 0) {
      if (++i == *argc) return cli_error(CLI_USAGE, "--plugin needs a file");
      path = argv[i];
    } else {
      argv[kept++] = argv[i];
      continue;
    }
    if (kiln_plugin_load(path) != KILN_OK) return cli_error(CLI_FAILED, "%s", kiln_last_error());
  }
  argv[kept] = NULL;
  *argc = kept;
  return CLI_OK;
}

int main(int argc, char **argv) {
  const int loaded = load_plugins(&argc, argv);
  if (loaded != CLI_OK) return loaded;
  if (argc < 2) {
    print_help(stderr);
    return CLI_USAGE;
  }
  const char *name = argv[1];
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
    print_help(stdout);
    return CLI_OK;
  }
  if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
    printf("kiln %s\n", kiln_version());
    return CLI_OK;
  }
  for (int i = 0; i < COMMAND_COUNT; i++) {
    if (strcmp(name, commands[i]->name) != 0) continue;
    for (int a = 2; a < argc && strcmp(argv[a], "--") != 0; a++) {
      if (strcmp(argv[a], "--help") == 0 || strcmp(argv[a], "-h") == 0) {
        fputs(commands[i]->help, stdout);
        return CLI_OK;
      }
    }
    const int result = commands[i]->run(argc - 1, argv + 1);
    if (fflush(stdout) != 0 || ferror(stdout))
      return result ? result : cli_error(CLI_FAILED, "writing to standard output failed");
    return result;
  }
  return cli_error(CLI_USAGE, "unknown command '%s'; 'kiln --help' lists them", name);
}
