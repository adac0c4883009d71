/* Runs a fuzz target without libFuzzer: over the files given, then for some seconds over random mutations of them.
 *   fuzz_x [--seconds S] [--seed N] [--save FILE] FILE_OR_FOLDER...
 * Before each input is tried it is copied to --save's file (if given), so that the one that crashed is at hand. */
#include <dirent.h>
#include <string.h>
#include <time.h>

#include "fuzz/fuzz.h"

typedef struct seed {
  uint8_t *bytes;
  size_t size;
} seed;

static seed *seeds;
static size_t seed_count;
static const char *save_path;
static uint64_t random_state;

static uint64_t next_random(void) { /* xorshift64* */
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545f4914f6cdd1du;
}

static size_t below(size_t n) { return n == 0 ? 0 : (size_t)(next_random() % n); }

static void *checked(void *memory) {
  if (memory != NULL) return memory;
  fprintf(stderr, "out of memory\n");
  exit(2);
}

static void add_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (f == NULL) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
  seed s = {NULL, 0};
  for (size_t capacity = 0;;) {
    if (s.size == capacity) s.bytes = checked(realloc(s.bytes, capacity = capacity * 2 + 4096));
    const size_t n = fread(s.bytes + s.size, 1, capacity - s.size, f);
    s.size += n;
    if (n == 0) break;
  }
  fclose(f);
  seeds = checked(realloc(seeds, (seed_count + 1) * sizeof *seeds));
  seeds[seed_count++] = s;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void add_path(const char *path) {
  DIR *folder = opendir(path);
  if (folder == NULL) {
    add_file(path);
    return;
  }
  char **names = NULL;
  size_t count = 0;
  for (struct dirent *e; (e = readdir(folder)) != NULL;) {
    if (e->d_name[0] == '.') continue;
    const size_t size = strlen(path) + strlen(e->d_name) + 2;
    names = checked(realloc(names, (count + 1) * sizeof *names));
    names[count] = checked(malloc(size));
    snprintf(names[count++], size, "%s/%s", path, e->d_name);
  }
  closedir(folder);
  if (count > 0) qsort(names, count, sizeof *names, by_text); /* the same order everywhere */
  for (size_t i = 0; i < count; i++) {
    add_path(names[i]);
    free(names[i]);
  }
  free(names);
}

/* The input is copied to a block of exactly its size, so that the sanitizer sees the first byte too many. */
static void run(const uint8_t *bytes, size_t size) {
  if (save_path != NULL) {
    FILE *f = fopen(save_path, "wb");
    if (f != NULL) {
      fwrite(bytes, 1, size, f);
      fclose(f);
    }
  }
  void *copy = NULL;
  if (posix_memalign(&copy, 64, size > 0 ? size : 1) != 0) checked(NULL); /* engines want aligned bytes */
  if (size > 0) memcpy(copy, bytes, size);
  LLVMFuzzerTestOneInput(copy, size);
  free(copy);
}

static void put_interesting(uint8_t *p, size_t room) {
  static const int64_t numbers[] = {0,     1,     -1,    127,       128,       255,       256,
                                    32767, 65535, 65536, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
  int64_t number = numbers[below(sizeof numbers / sizeof numbers[0])];
  if (below(4) == 0) number = (int64_t)room;
  const size_t width = (size_t)1 << below(4);
  memcpy(p, &number, width < room ? width : room); /* little-endian, as the formats are */
}

/* One mutation in place of bytes[0..size), which has room for `capacity`; returns the new size. */
static size_t mutate(uint8_t *bytes, size_t size, size_t capacity) {
  const size_t at = below(size), length = 1 + below(size - at < 32 ? size - at : 32);
  const seed *other = &seeds[below(seed_count)];
  if (size == 0) {
    bytes[0] = (uint8_t)next_random();
    return 1;
  }
  switch (below(9)) {
    case 0:
      bytes[at] ^= (uint8_t)(1u << below(8));
      return size;
    case 1:
      bytes[at] = (uint8_t)next_random();
      return size;
    case 2:
      put_interesting(bytes + at, size - at);
      return size;
    case 3:
      return at; /* cut */
    case 4:      /* remove */
      if (at + length > size) return size;
      memmove(bytes + at, bytes + at + length, size - at - length);
      return size - length;
    case 5: /* repeat */
      if (size + length > capacity || at + length > size) return size;
      memmove(bytes + at + length, bytes + at, size - at);
      return size + length;
    case 6: { /* move within */
      const size_t to = below(size);
      const size_t n = size - (to > at ? to : at) < length ? size - (to > at ? to : at) : length;
      memmove(bytes + to, bytes + at, n);
      return size;
    }
    case 7: { /* splice from another seed */
      if (other->size == 0) return size;
      const size_t from = below(other->size);
      size_t n = 1 + below(other->size - from);
      if (n > size - at) n = size - at;
      memcpy(bytes + at, other->bytes + from, n);
      return size;
    }
    default: /* change a digit: lengths and shapes of texts */
      for (size_t i = at; i < size && i < at + 200; i++) {
        if (bytes[i] >= '0' && bytes[i] <= '9') {
          bytes[i] = (uint8_t)('0' + below(10));
          break;
        }
      }
      return size;
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  double seconds = 0;
  random_state = 0x9e3779b97f4a7c15u;
  for (int i = 1; i < argc; i++) {
    const int more = i + 1 < argc;
    if (strcmp(argv[i], "--seconds") == 0 && more) {
      seconds = atof(argv[++i]);
    } else if (strcmp(argv[i], "--seed") == 0 && more) {
      random_state ^= strtoull(argv[++i], NULL, 10) * 0xbf58476d1ce4e5b9u;
    } else if (strcmp(argv[i], "--save") == 0 && more) {
      save_path = argv[++i];
    } else {
      add_path(argv[i]);
    }
  }
  if (seed_count == 0) {
    fprintf(stderr, "usage: %s [--seconds S] [--seed N] [--save FILE] FILE_OR_FOLDER...\n", argv[0]);
    return 2;
  }
  size_t largest = 0;
  for (size_t i = 0; i < seed_count; i++) {
    run(seeds[i].bytes, seeds[i].size);
    if (seeds[i].size > largest) largest = seeds[i].size;
  }
  const size_t capacity = largest + 1024;
  uint8_t *bytes = checked(malloc(capacity));
  unsigned long long tried = 0;
  for (const double end = now() + seconds; now() < end; tried++) {
    const seed *s = &seeds[below(seed_count)];
    size_t size = s->size;
    if (size > 0) memcpy(bytes, s->bytes, size);
    for (size_t n = 1 + below(below(4) == 0 ? 24 : 3); n > 0; n--) size = mutate(bytes, size, capacity);
    run(bytes, size);
  }
  printf("%zu files and %llu mutations of them: no crash\n", seed_count, tried);
  free(bytes);
  for (size_t i = 0; i < seed_count; i++) free(seeds[i].bytes);
  free(seeds);
  return 0;
}
