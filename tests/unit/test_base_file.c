/* Maps and atomic writes, and what they say when the system refuses. */
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "unit/expect.h"

static char folder[64];

static const char *in_folder(const char *name) {
  static char path[2][512];
  static int turn;
  turn = !turn;
  snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
  return path[turn];
}

static int make_folder(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "kiln-test-XXXXXX");
  return mkdtemp(folder) != NULL ? 0 : -1;
}

static int count_files(void) {
  int count = 0;
  DIR *d = opendir(folder);
  assert_non_null(d);
  for (struct dirent *e; (e = readdir(d)) != NULL;) count += e->d_name[0] != '.';
  closedir(d);
  return count;
}

static int remove_folder(void **state) {
  DIR *d = opendir(folder);
  if (d == NULL) return -1;
  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (e->d_name[0] == '.') continue;
    chmod(in_folder(e->d_name), 0700);
    if (unlink(in_folder(e->d_name)) != 0) rmdir(in_folder(e->d_name));
  }
  closedir(d);
  return rmdir(folder) == 0 ? expect_no_leak(state) : -1;
}

static void expect_content(const char *path, const char *content) {
  file_map m;
  expect_ok(file_map_open(path, &m));
  assert_int_equal(m.size, strlen(content));
  assert_memory_equal(m.data, content, m.size);
  file_map_close(&m);
}

static void test_write_and_map(void **state) {
  (void)state;
  const char *path = in_folder("a");
  const file_span spans[] = {{"hello ", 6}, {NULL, 0}, {"world", 5}};
  expect_ok(file_write_atomic(path, spans, 3));
  expect_content(path, "hello world");
  expect_ok(file_write_atomic(path, spans, 1));
  expect_content(path, "hello ");
  expect_ok(file_write_atomic(path, NULL, 0));
  file_map m;
  expect_ok(file_map_open(path, &m));
  assert_non_null(m.data);
  assert_int_equal(m.size, 0);
  file_map_close(&m);
  assert_int_equal(count_files(), 1);
}

static void test_refused_reads(void **state) {
  (void)state;
  file_map m;
  expect_failure(file_map_open(in_folder("none"), &m), KILN_IO_ERROR, "/none': No such file");
  expect_failure(file_map_open(folder, &m), KILN_IO_ERROR, "it is a folder");
  assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
  expect_failure(file_map_open(in_folder("pipe"), &m), KILN_IO_ERROR, "not a regular file");
  expect_failure(file_map_open("/dev/null", &m), KILN_IO_ERROR, "not a regular file");
}

static void test_refused_writes(void **state) {
  (void)state;
  const file_span span = {"x", 1};
  expect_failure(file_write_atomic("no/such/folder/a", &span, 1), KILN_IO_ERROR, "'no/such/folder/a': No such file");
  expect_failure(file_write_atomic(folder, &span, 1), KILN_IO_ERROR, "a folder");
  expect_failure(file_write_atomic("/dev/null", &span, 1), KILN_IO_ERROR, "a device");
  expect_failure(file_write_atomic("/proc/kiln-test", &span, 1), KILN_IO_ERROR, "cannot write '/proc/kiln-test'");
  mem_test_fail_after(0);
  expect_failure(file_write_atomic(in_folder("a"), &span, 1), KILN_OUT_OF_MEMORY, "temporary file");
  assert_int_equal(count_files(), 0);
}

static void test_no_permission(void **state) {
  (void)state;
  if (geteuid() == 0) skip(); /* root may write anywhere */
  const file_span span = {"x", 1};
  file_map m;
  expect_ok(file_write_atomic(in_folder("a"), &span, 1));
  chmod(in_folder("a"), 0);
  expect_failure(file_map_open(in_folder("a"), &m), KILN_IO_ERROR, "Permission denied");
  chmod(folder, 0500);
  expect_failure(file_write_atomic(in_folder("b"), &span, 1), KILN_IO_ERROR, "Permission denied");
  chmod(folder, 0700);
}

/* A limit on the file size stands for a full disk: write() stops short, then fails. */
static void test_full_disk(void **state) {
  (void)state;
  const char *path = in_folder("a");
  static char large[100000];
  const file_span small = {"old", 3}, spans[] = {{large, sizeof large}, {large, sizeof large}};
  expect_ok(file_write_atomic(path, &small, 1));
  struct rlimit before, limit;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  limit = before;
  limit.rlim_cur = 150000;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const kiln_status status = file_write_atomic(path, spans, 2);
  setrlimit(RLIMIT_FSIZE, &before);
  expect_failure(status, KILN_IO_ERROR, "/a': File too large");
  expect_content(path, "old");
  assert_int_equal(count_files(), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_write_and_map, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_refused_reads, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_refused_writes, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_no_permission, make_folder, remove_folder),
      cmocka_unit_test_setup_teardown(test_full_disk, make_folder, remove_folder),
  };
  return cmocka_run_group_tests_name("file", tests, NULL, NULL);
}
