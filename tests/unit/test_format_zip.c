/* ZIP reader: archives of a small writer here, good and hostile. */
#include <stdlib.h>
#include <zlib.h>

#include "format/zip.h"
#include "unit/expect.h"

/* ---- A writer that can lie --------------------------------------------------------------------------------------- */

enum { LARGEST = 1 << 16 };

typedef struct item {
  const char *name, *content;
  int method;         /* 0 or 8 */
  bool zip64;         /* 0xffffffff in the headers, the truth in extra fields */
  bool descriptor;    /* sizes in a data descriptor: local header has zeros */
  int64_t claim_size; /* if not 0: the uncompressed size that the headers tell */
  int64_t claim_stored_size, claim_header;
  const char *local_name; /* if not NULL: another name in the local header */
  int claim_method, flags;
} item;

typedef struct output {
  uint8_t bytes[LARGEST];
  size_t size;
} output;

static void put(output *o, uint64_t number, int width) {
  for (int i = 0; i < width; i++) o->bytes[o->size++] = (uint8_t)(number >> (8 * i));
}

static void put_bytes(output *o, const void *bytes, size_t size) {
  memcpy(o->bytes + o->size, bytes, size);
  o->size += size;
}

static size_t deflate_text(const char *content, uint8_t *out, size_t room) {
  z_stream s = {
      .next_in = (Bytef *)content, .avail_in = (uInt)strlen(content), .next_out = out, .avail_out = (uInt)room};
  assert_int_equal(deflateInit2(&s, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
  assert_int_equal(deflate(&s, Z_FINISH), Z_STREAM_END);
  const size_t size = s.total_out;
  deflateEnd(&s);
  return size;
}

static void put_header(output *o, const item *it, bool central, uint64_t size, uint64_t stored, uint32_t crc,
                       uint64_t at) {
  const char *name = !central && it->local_name != NULL ? it->local_name : it->name;
  const int method = central && it->claim_method != 0 ? it->claim_method : it->method;
  const bool hide = it->descriptor && !central;
  put(o, central ? 0x02014b50 : 0x04034b50, 4);
  if (central) put(o, 45, 2);
  put(o, 45, 2);
  put(o, (uint64_t)(it->flags | (it->descriptor ? 8 : 0)), 2);
  put(o, (uint64_t)method, 2);
  put(o, 0, 4);
  put(o, hide ? 0 : crc, 4);
  put(o, hide ? 0 : it->zip64 ? UINT32_MAX : stored, 4);
  put(o, hide ? 0 : it->zip64 ? UINT32_MAX : size, 4);
  put(o, strlen(name), 2);
  put(o, it->zip64 ? (central ? 28 : 20) : 0, 2);
  if (central) {
    put(o, 0, 8); /* comment, disk, attributes */
    put(o, 0, 2);
    put(o, it->zip64 ? UINT32_MAX : at, 4);
  }
  put_bytes(o, name, strlen(name));
  if (it->zip64) {
    put(o, 1, 2);
    put(o, central ? 24 : 16, 2);
    put(o, size, 8);
    put(o, stored, 8);
    if (central) put(o, at, 8);
  }
}

static void put_end(output *o, size_t directory, size_t count, bool zip64) {
  const size_t size = o->size - directory, end64 = o->size;
  if (zip64) {
    put(o, 0x06064b50, 4);
    put(o, 44, 8);
    put(o, 45 | 45 << 16, 4);
    put(o, 0, 8);
    put(o, count, 8);
    put(o, count, 8);
    put(o, size, 8);
    put(o, directory, 8);
    put(o, 0x07064b50, 4);
    put(o, 0, 4);
    put(o, end64, 8);
    put(o, 1, 4);
  }
  put(o, 0x06054b50, 4);
  put(o, 0, 4);
  put(o, zip64 ? UINT16_MAX : count, 2);
  put(o, zip64 ? UINT16_MAX : count, 2);
  put(o, zip64 ? UINT32_MAX : size, 4);
  put(o, zip64 ? UINT32_MAX : directory, 4);
  put(o, 0, 2);
}

static void write_zip(output *o, const item *items, size_t count, bool zip64) {
  static uint8_t data[16][4096];
  size_t stored[16], at[16];
  memset(o, 0, sizeof *o);
  for (size_t i = 0; i < count; i++) {
    const item *it = &items[i];
    const size_t size = strlen(it->content);
    stored[i] = size;
    if (it->method == 8) {
      stored[i] = deflate_text(it->content, data[i], sizeof data[i]);
    } else {
      memcpy(data[i], it->content, size);
    }
    at[i] = o->size;
    const uint32_t crc = (uint32_t)crc32(0, (const Bytef *)it->content, (uInt)size);
    put_header(o, it, false, it->claim_size != 0 ? (uint64_t)it->claim_size : size, stored[i], crc, 0);
    put_bytes(o, data[i], stored[i]);
    if (it->descriptor) {
      put(o, 0x08074b50, 4);
      put(o, crc, 4);
      put(o, stored[i], 4);
      put(o, size, 4);
    }
  }
  const size_t directory = o->size;
  for (size_t i = 0; i < count; i++) {
    const item *it = &items[i];
    const size_t size = strlen(it->content);
    put_header(o, it, true, it->claim_size != 0 ? (uint64_t)it->claim_size : size,
               it->claim_stored_size != 0 ? (uint64_t)it->claim_stored_size : stored[i],
               (uint32_t)crc32(0, (const Bytef *)it->content, (uInt)size),
               it->claim_header != 0 ? (uint64_t)it->claim_header : at[i]);
  }
  put_end(o, directory, count, zip64);
}

/* ---- Tests ------------------------------------------------------------------------------------------------------- */

static void expect_content(const zip *z, const char *name, const char *content) {
  arena a = {0};
  const zip_entry *e = NULL;
  const void *bytes;
  size_t size;
  expect_ok(zip_require(z, name, &e));
  expect_ok(zip_read(e, &a, &bytes, &size));
  assert_int_equal(size, strlen(content));
  assert_memory_equal(bytes, content, size);
  if (e->method == 0) assert_ptr_equal(bytes, e->data);
  arena_free(&a);
}

static const item good[] = {
    {.name = "m/data.bin", .content = "stored content"},
    {.name = "m/code/a.py", .content = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", .method = 8},
    {.name = "m/streamed", .content = "with a descriptor", .descriptor = true, .method = 8},
    {.name = "m/large", .content = "with 64-bit sizes", .zip64 = true},
    {.name = "m/empty", .content = ""},
    {.name = "m/empty2", .content = "", .method = 8},
};

static void test_good(void **state) {
  (void)state;
  static output o;
  for (int zip64 = 0; zip64 < 2; zip64++) {
    zip z;
    write_zip(&o, good, KILN_COUNT(good), zip64);
    expect_ok(zip_open(o.bytes, o.size, &z));
    assert_int_equal(z.count, KILN_COUNT(good));
    for (size_t i = 0; i < KILN_COUNT(good); i++) {
      expect_content(&z, good[i].name, good[i].content);
      expect_content(&z, good[i].name + 2, good[i].content); /* without the archive's folder */
      assert_string_equal(zip_short_name(&z, zip_find(&z, good[i].name)), good[i].name + 2);
    }
    assert_null(zip_find(&z, "m/absent"));
    assert_null(zip_find(&z, ""));
    const zip_entry *e;
    expect_failure(zip_require(&z, "data.json", &e), KILN_INVALID_FILE, "no entry 'data.json' among its 6 entries");
    zip_close(&z);
  }
}

static void test_no_common_folder(void **state) {
  (void)state;
  static output o;
  zip z;
  const item items[] = {{.name = "a/x", .content = "1"}, {.name = "b/x", .content = "2"}};
  write_zip(&o, items, 2, false);
  expect_ok(zip_open(o.bytes, o.size, &z));
  assert_int_equal(z.prefix, 0);
  assert_null(zip_find(&z, "x"));
  expect_content(&z, "b/x", "2");
  zip_close(&z);
  write_zip(&o, items, 0, false);
  expect_ok(zip_open(o.bytes, o.size, &z));
  assert_int_equal(z.count, 0);
  assert_null(zip_find(&z, "x"));
  zip_close(&z);
}

static kiln_status open_items(const item *items, size_t count) {
  static output o;
  zip z;
  write_zip(&o, items, count, false);
  const kiln_status status = zip_open(o.bytes, o.size, &z);
  if (status == KILN_OK) zip_close(&z);
  return status;
}

static void test_hostile_entries(void **state) {
  (void)state;
  static const struct {
    item it;
    kiln_status code;
    const char *text;
  } cases[] = {
      {{.name = "a", .content = "xx", .claim_size = 3},
       KILN_INVALID_FILE,
       "entry 'a': stored, but its sizes 2 and 3 differ"},
      {{.name = "a", .content = "xx", .claim_stored_size = 5000, .claim_size = 5000},
       KILN_INVALID_FILE,
       "reach outside the file"},
      {{.name = "a", .content = "xx", .claim_stored_size = UINT32_MAX - 1},
       KILN_INVALID_FILE,
       "reach outside the file"},
      {{.name = "a", .content = "xx", .claim_header = 5}, KILN_INVALID_FILE, "no local header at offset 5"},
      {{.name = "a", .content = "xx", .claim_header = 1 << 30}, KILN_INVALID_FILE, "reach outside the file"},
      {{.name = "a", .content = "xx", .local_name = "b"}, KILN_INVALID_FILE, "tells of another entry"},
      {{.name = "a", .content = "xx", .claim_method = 8}, KILN_INVALID_FILE, "tells of another entry"},
      {{.name = "a", .content = "xx", .method = 99},
       KILN_UNSUPPORTED,
       "compression method 99; only stored (0) and deflated (8)"},
      {{.name = "a", .content = "xx", .flags = 1}, KILN_UNSUPPORTED, "entry 'a' is encrypted"},
      {{.name = "", .content = "xx"}, KILN_INVALID_FILE, "empty name"},
      {{.name = "a", .content = "xx", .method = 8, .claim_size = 100 << 20},
       KILN_INVALID_FILE,
       "refused as a decompression bomb"},
      {{.name = "a", .content = "xx", .method = 8, .claim_size = 0xf0000000}, KILN_INVALID_FILE, "decompression bomb"},
      {{.name = "a", .content = "x", .zip64 = true, .claim_size = INT64_MAX}, KILN_INVALID_FILE, "differ"},
      {{.name = "a", .content = "x", .zip64 = true, .claim_size = -1}, KILN_INVALID_FILE, "reach outside the file"},
      {{.name = "a", .content = "x", .zip64 = true, .claim_header = -1}, KILN_INVALID_FILE, "reach outside the file"},
      {{.name = "a", .content = "x", .zip64 = true, .claim_stored_size = -1},
       KILN_INVALID_FILE,
       "reach outside the file"},
  };
  for (size_t i = 0; i < KILN_COUNT(cases); i++)
    expect_failure(open_items(&cases[i].it, 1), cases[i].code, cases[i].text);
}

static void test_duplicates_and_overlaps(void **state) {
  (void)state;
  const item twice[] = {{.name = "a", .content = "1"}, {.name = "b", .content = "2"}, {.name = "a", .content = "3"}};
  expect_failure(open_items(twice, 3), KILN_INVALID_FILE, "two entries are named 'a'");
  /* The first entry's content holds a whole local header of the second: a quine-like overlap. */
  static output inner, o;
  const item second = {.name = "b", .content = "22"};
  write_zip(&inner, &second, 1, false);
  char content[64] = {0};
  memset(content, 'x', 40);
  item overlap[] = {{.name = "a", .content = content}, second};
  write_zip(&o, overlap, 2, false);
  memcpy(o.bytes + 31, inner.bytes, 33); /* behind the local header of 'a' */
  zip z;
  const size_t directory = 31 + 40 + 33, header_of_b = directory + 47 + 42;
  o.bytes[header_of_b] = 31;
  expect_failure(zip_open(o.bytes, o.size, &z), KILN_INVALID_FILE, "entries 'a' and 'b' overlap");
}

static void test_wrong_content(void **state) {
  (void)state;
  static output o;
  zip z;
  arena a = {0};
  const void *bytes;
  size_t size;
  write_zip(&o, good, 2, false);
  o.bytes[30 + strlen("m/data.bin")] ^= 1;
  expect_ok(zip_open(o.bytes, o.size, &z));
  expect_failure(zip_read(zip_find(&z, "data.bin"), &a, &bytes, &size), KILN_INVALID_FILE, "its checksum is");
  zip_close(&z);
  const item lie[] = {{.name = "a", .content = "some text", .method = 8, .claim_size = 20},
                      {.name = "b", .content = "some text", .method = 8, .claim_size = 5}};
  write_zip(&o, lie, 2, false);
  expect_ok(zip_open(o.bytes, o.size, &z));
  expect_failure(zip_read(zip_find(&z, "a"), &a, &bytes, &size), KILN_INVALID_FILE, "do not inflate to 20 bytes");
  expect_failure(zip_read(zip_find(&z, "b"), &a, &bytes, &size), KILN_INVALID_FILE, "do not inflate to 5 bytes");
  zip_close(&z);
  arena_free(&a);
}

/* Reads all; used where either outcome is fine as long as nothing breaks. */
static void open_and_read(const uint8_t *bytes, size_t size, bool must_fail) {
  uint8_t *copy = malloc(size + !size); /* exact size, for the sanitizer */
  memcpy(copy, bytes, size);
  zip z;
  const kiln_status status = zip_open(copy, size, &z);
  if (must_fail) expect_failure(status, KILN_INVALID_FILE, "zip");
  if (status == KILN_OK) {
    arena a = {0};
    for (size_t i = 0; i < z.count; i++) {
      const void *content;
      size_t length;
      if (zip_read(&z.entries[i], &a, &content, &length) != KILN_OK) assert_true(error_text()[0] != '\0');
    }
    arena_free(&a);
    zip_close(&z);
  }
  free(copy);
}

static void test_truncated_and_flipped(void **state) {
  (void)state;
  static output o;
  for (int zip64 = 0; zip64 < 2; zip64++) {
    write_zip(&o, good, KILN_COUNT(good), zip64);
    for (size_t size = 0; size < o.size; size++) open_and_read(o.bytes, size, true);
    for (size_t bit = 0; bit < 8 * o.size; bit++) {
      o.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
      open_and_read(o.bytes, o.size, false);
      o.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
  }
}

static void test_absurd_ends(void **state) {
  (void)state;
  zip z;
  uint8_t end[22] = {'P', 'K', 5, 6};
  expect_failure(zip_open("", 0, &z), KILN_INVALID_FILE, "too short");
  expect_failure(zip_open("not a zip archive at all", 24, &z), KILN_INVALID_FILE, "no end record");
  end[10] = 100; /* entries */
  expect_failure(zip_open(end, sizeof end, &z), KILN_INVALID_FILE, "smaller than its number of entries");
  end[12] = 50; /* bytes of directory */
  expect_failure(zip_open(end, sizeof end, &z), KILN_INVALID_FILE, "directory lies outside");
  memset(end + 8, 0xff, 12);
  expect_failure(zip_open(end, sizeof end, &z), KILN_INVALID_FILE, "zip64 end locator is missing");
  memset(end + 4, 0, 18);
  end[4] = 1;
  expect_failure(zip_open(end, sizeof end, &z), KILN_INVALID_FILE, "several disks");
}

static void test_out_of_memory(void **state) {
  (void)state;
  static output o;
  write_zip(&o, good, KILN_COUNT(good), false);
  bool opened = false;
  for (int n = 0; !opened; n++) {
    zip z;
    mem_test_fail_after(n);
    const kiln_status status = zip_open(o.bytes, o.size, &z);
    mem_test_fail_after(-1);
    opened = status == KILN_OK;
    if (!opened) {
      expect_failure(status, KILN_OUT_OF_MEMORY, "out of memory");
      continue;
    }
    bool read = false;
    for (int k = 0; !read; k++) {
      arena a = {0};
      const void *bytes;
      size_t size;
      mem_test_fail_after(k);
      read = zip_read(zip_find(&z, "code/a.py"), &a, &bytes, &size) == KILN_OK;
      mem_test_fail_after(-1);
      if (!read) expect_failure(KILN_OUT_OF_MEMORY, KILN_OUT_OF_MEMORY, "out of memory");
      arena_free(&a);
      assert_true(k < 20);
    }
    zip_close(&z);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_good, expect_no_leak),
      cmocka_unit_test_teardown(test_no_common_folder, expect_no_leak),
      cmocka_unit_test_teardown(test_hostile_entries, expect_no_leak),
      cmocka_unit_test_teardown(test_duplicates_and_overlaps, expect_no_leak),
      cmocka_unit_test_teardown(test_wrong_content, expect_no_leak),
      cmocka_unit_test_teardown(test_truncated_and_flipped, expect_no_leak),
      cmocka_unit_test_teardown(test_absurd_ends, expect_no_leak),
      cmocka_unit_test_teardown(test_out_of_memory, expect_no_leak),
  };
  return cmocka_run_group_tests_name("zip", tests, NULL, NULL);
}
