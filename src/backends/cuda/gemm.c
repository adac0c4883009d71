/* The planner of matrix products: a list of tiles, a cost model that orders them, kernel text, launch.
 *
 * The cost model counts, for each multiprocessor: waves of blocks; per slice of k the largest of tensor-core time, time
 * to bring the slice from the L2 cache, and a latency; and what starting and finishing a block takes. Its constants
 * were fitted to about 1500 timings on an H100 (docs/performance.md). */
#include "backends/cuda/gemm.h"

#include <stdlib.h>
#include <string.h>

#include "backends/cuda/texts.h"
#include "base/memory.h"

/* ---- Small helpers ----------------------------------------------------------------------------------------------- */

kiln_status workspace_reserve(kernel_prep *p, size_t bytes, size_t *out_at) {
  *out_at = p->workspace_size;
  if (bytes > PTRDIFF_MAX || !size_add(p->workspace_size, size_align(bytes, 256), &p->workspace_size))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "workspace is too large");
  return KILN_OK;
}

bool cuda_matrix(const tensor *t, int64_t *out_pitch) {
  const int last = t->rank - 1;
  int64_t next = 0;
  bool first = true;
  *out_pitch = t->rank > 0 ? t->shape[last] : 1;
  if (t->rank == 0) return true;
  if (t->shape[last] != 1 && t->strides[last] != 1) return false;
  for (int r = last - 1; r >= 0; r--) {
    if (t->shape[r] == 1) continue;
    if (first)
      *out_pitch = t->strides[r];
    else if (t->strides[r] != next)
      return false;
    first = false;
    next = t->strides[r] * t->shape[r];
  }
  return true;
}

int cuda_vector(int most, int size, int alignment, int count, const int64_t *numbers) {
  int v = most;
  while (v > 1 && v * size > (alignment < 16 ? alignment : 16)) v /= 2;
  for (int i = 0; i < count; i++) {
    while (v > 1 && numbers[i] % v != 0) v /= 2;
  }
  return v;
}

int cuda_result_vector(const kernel_prep *p, int most, int64_t columns) {
  const tensor *y = &p->args.out[0];
  int64_t numbers[KILN_MAX_RANK + 1];
  int count = 0;
  if (y->rank == 0 || y->strides[y->rank - 1] != 1) return 1;
  numbers[count++] = columns;
  for (int r = 0; r < y->rank - 1; r++) {
    if (y->shape[r] != 1) numbers[count++] = y->strides[r];
  }
  /* Results wider than 16 bytes are stored in parts. */
  const int size = (int)kiln_dtype_size(y->dtype), align = cuda_out_alignment(p, 0);
  const int v = cuda_vector(most, size, align, count, numbers);
  if (v * size == 16 && most > v && align == 16) return cuda_vector(most, 1, 16, count, numbers);
  return v;
}

int cuda_bias_vector(const kernel_prep *p, int operand, int vector) {
  if (!node_in(p->args.node, operand)) return vector;
  const int size = (int)kiln_dtype_size(p->args.in[operand].dtype), align = cuda_in_alignment(p, operand);
  while (vector > 1 && align < 16 && vector * size > align) vector /= 2;
  return vector;
}

const char *cuda_mx_type(kiln_dtype d) {
  return d == KILN_F16 ? "MX_F16" : d == KILN_BF16 ? "MX_BF16" : d == KILN_F64 ? "MX_F64" : "MX_F32";
}

/* ---- Operands with other strides --------------------------------------------------------------------------------- */

kiln_status dense_copy_prepare(kernel_prep *p, const tensor *in, dense_copy *out) {
  const int64_t total = tensor_numel(in);
  size_t bytes;
  *out = (dense_copy){.blocks = cuda_div_up(total, 256)};
  if (total == 0) return KILN_OK;
  if (!size_mul((size_t)total, kiln_dtype_size(in->dtype), &bytes))
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "operand is too large");
  KILN_TRY(workspace_reserve(p, bytes, &out->at));
  const char *type = cuda_type(in->dtype);
  text t = {0};
  text_printf(&t,
              "extern \"C\" __global__ void __launch_bounds__(256) dense(const %s *in, %s *out) {\n"
              "  KILN_WAIT;\n  const i64 i = (i64)blockIdx.x * 256 + threadIdx.x;\n  if (i >= %lldLL) return;\n",
              type, type, (long long)total);
  cuda_coordinates(&t, "i64", "c", "i", in->rank, in->shape);
  text_puts(&t, "  out[i] = in[");
  cuda_offset(&t, "c", in->rank, in->shape, in->strides);
  text_puts(&t, "];\n}\n");
  const char *kept = NULL;
  KILN_TRY(cuda_text_keep(p, &t, &kept));
  return cuda_compile(p, &(cuda_source){.entry = "dense", .text = kept}, &out->function);
}

kiln_status dense_copy_run(const kernel_args *a, const dense_copy *c, int operand, const void **out) {
  *out = a->in[operand].data;
  if (!c->function) return KILN_OK;
  void *to = (char *)a->workspace + c->at;
  *out = to;
  return cuda_launch_1d(a, c->function, c->blocks, 256, 0, CUDA_PARAMS(&a->in[operand].data, &to));
}

/* ---- Ways -------------------------------------------------------------------------------------------------------- */

static const gemm_tile tensor_tiles[] = {
    {16, 32, 128, 4, 1, 1, 4, 4, GEMM_MMA},
    {16, 64, 64, 6, 1, 1, 4, 3, GEMM_MMA},
    {16, 64, 128, 4, 1, 2, 2, 2, GEMM_MMA},
    {16, 128, 64, 5, 1, 4, 1, 2, GEMM_MMA},
    {32, 32, 128, 4, 1, 1, 4, 3, GEMM_MMA},
    {32, 64, 64, 5, 1, 2, 2, 3, GEMM_MMA},
    {32, 64, 128, 3, 1, 2, 2, 2, GEMM_MMA},
    {64, 32, 64, 5, 2, 1, 2, 3, GEMM_MMA},
    {64, 64, 64, 4, 2, 2, 1, 3, GEMM_MMA},
    {64, 64, 64, 5, 2, 2, 2, 2, GEMM_MMA},
    {64, 64, 128, 3, 2, 2, 2, 2, GEMM_MMA},
    {64, 128, 64, 4, 2, 2, 1, 2, GEMM_MMA},
    {64, 128, 64, 4, 2, 4, 1, 2, GEMM_MMA},
    {128, 64, 64, 4, 2, 2, 1, 2, GEMM_MMA},
    {128, 64, 64, 3, 4, 2, 1, 2, GEMM_MMA},
    {128, 128, 64, 3, 2, 2, 1, 2, GEMM_MMA},
    {128, 128, 64, 3, 2, 4, 1, 2, GEMM_MMA},
    {128, 256, 64, 3, 2, 4, 1, 1, GEMM_MMA},
    {64, 64, 64, 6, 4, 1, 1, 3, GEMM_WGMMA},
    {64, 128, 64, 4, 4, 1, 1, 2, GEMM_WGMMA},
    {64, 256, 64, 5, 4, 1, 1, 1, GEMM_WGMMA},
    {128, 64, 64, 4, 8, 1, 1, 2, GEMM_WGMMA},
    {128, 96, 64, 4, 8, 1, 1, 2, GEMM_WGMMA},
    {128, 128, 64, 3, 8, 1, 1, 2, GEMM_WGMMA},
    {128, 128, 64, 6, 8, 1, 1, 1, GEMM_WGMMA},
    {128, 192, 64, 5, 8, 1, 1, 1, GEMM_WGMMA},
    {128, 256, 64, 4, 8, 1, 1, 1, GEMM_WGMMA},
    {256, 128, 64, 4, 16, 1, 1, 1, GEMM_WGMMA},
    /* warps_m: warpgroups */
    {128, 256, 64, 4, 2, 1, 1, 1, GEMM_TMA},
    {128, 192, 64, 5, 2, 1, 1, 1, GEMM_TMA},
    {128, 128, 64, 6, 2, 1, 1, 1, GEMM_TMA},
    {128, 128, 64, 3, 2, 1, 1, 2, GEMM_TMA},
    {64, 256, 64, 4, 1, 1, 1, 1, GEMM_TMA},
    {64, 128, 64, 4, 1, 1, 1, 2, GEMM_TMA},
    {64, 64, 64, 6, 1, 1, 1, 2, GEMM_TMA},
    {64, 128, 64, 3, 1, 1, 1, 3, GEMM_TMA},
    {128, 96, 64, 4, 2, 1, 1, 2, GEMM_TMA},
    {192, 128, 64, 4, 3, 1, 1, 1, GEMM_TMA},
    {192, 192, 64, 4, 3, 1, 1, 1, GEMM_TMA},
    {64, 96, 64, 4, 1, 1, 1, 2, GEMM_TMA},
    {128, 64, 64, 4, 2, 1, 1, 2, GEMM_TMA},
    {128, 64, 64, 6, 2, 1, 1, 1, GEMM_TMA},
    {192, 64, 64, 6, 3, 1, 1, 1, GEMM_TMA},
    {256, 64, 64, 5, 4, 1, 1, 1, GEMM_TMA},
    {256, 128, 64, 4, 4, 1, 1, 1, GEMM_TMA},
};

/* gemm_simt.cu: warps_m and warps_n are the results of a thread. */
static const gemm_tile plain_tiles[] = {
    {32, 32, 16, 2, 2, 2, 1, 4, GEMM_MMA},
    {64, 64, 16, 2, 4, 4, 1, 4, GEMM_MMA},
    {128, 64, 16, 2, 8, 4, 1, 2, GEMM_MMA},
    {128, 128, 16, 2, 8, 8, 1, 2, GEMM_MMA},
};

enum { GEMM_MAX_WAYS = 256, GEMM_MAX_SPLIT = 8 };

/* How gemm_tma.cu turns accumulators into results: LEAVE of its text. LEAVE_SUMS goes with a split of k. */
typedef enum gemm_leave { LEAVE_BUFFER, LEAVE_VECTORS, LEAVE_ROWS, LEAVE_SUMS, LEAVE_CLASSES } gemm_leave;

typedef struct gemm_way {
  const gemm_tile *tile;
  int split;
  double cost;
} gemm_way;

static bool uses_tensor_cores(const kernel_prep *p, const gemm_problem *q) {
  return q->dtype != KILN_F32 || cuda_math_of(p->args.node) == CUDA_MATH_TF32;
}

static int64_t tile_bk(const gemm_tile *t, kiln_dtype d, bool cores) {
  return cores && d == KILN_F32 ? t->bk / 2 : t->bk;
}

static gemm_leave problem_leave(const kernel_prep *p, const gemm_problem *q) {
  const tensor *y = &p->args.out[0];
  if (q->n % 32 == 0) return LEAVE_VECTORS;
  if (q->bias_period) return LEAVE_BUFFER;
  const bool rows = y->rank > 0 && (y->strides[y->rank - 1] == 1 || y->shape[y->rank - 1] == 1);
  if (!rows || kiln_dtype_size(y->dtype) != 2 || q->vec_c == 8) return LEAVE_BUFFER;
  /* Every eighth row lies alike. (Vectors of an epilogue would start anywhere.) */
  const bool plain = !q->image && !q->has_bias && !p->args.node->epilogue && tensor_is_contiguous(y);
  return plain && q->m % 8 == 0 && q->m >= 1024 && q->n >= 512 ? LEAVE_CLASSES : LEAVE_ROWS;
}

static gemm_leave way_leave(const gemm_tile *t, int split, gemm_leave leave) {
  return t->kind == GEMM_TMA && split > 1 ? LEAVE_SUMS : leave;
}

/* Has the kernel a whole warpgroup for copies, whose registers go to the others? SHIFT_REGISTERS of gemm_tma.cu. */
static bool tile_shifts(const gemm_tile *t, gemm_leave leave) {
  return leave != LEAVE_BUFFER && t->blocks == 1 && (t->warps_m == 2 || (t->warps_m == 3 && t->bn > 128));
}

static int tile_threads(const gemm_tile *t, bool cores, gemm_leave leave) {
  if (!cores) return t->bm / t->warps_m * (t->bn / t->warps_n);
  if (t->kind == GEMM_TMA) return t->warps_m * 128 + (tile_shifts(t, leave) ? 128 : 32);
  return t->warps_m * t->warps_n * t->warps_k * 32;
}

/* Slices of k, of 128 bytes. */
static int64_t maps_slices(const gemm_problem *q) {
  const int64_t bk = 128 / (int64_t)kiln_dtype_size(q->dtype);
  return q->image ? q->image->taps * cuda_div_up(q->image->channels, bk) : cuda_div_up(q->k, bk);
}

typedef struct maps_room {
  int stages;
  bool stays; /* all of B stays in shared memory: B_STAYS of gemm_tma.cu */
  size_t bytes;
} maps_room;

/* Shared memory of gemm_tma.cu: rows laid out there leave room for fewer slices, and a B of one tile that fits stays. */
static maps_room maps_room_of(const gemm_problem *q, const gemm_tile *t, gemm_leave leave) {
  const size_t limit = (size_t)(227 * 1024 / t->blocks - (t->blocks > 1 ? 1024 : 0));
  const int rows = 16 * (t->bn + 8) * 2, warp[] = {16 * 40 * 4, 0, rows, 0, rows};
  const size_t buffers = (size_t)(t->warps_m * 4 * warp[leave]), a = (size_t)t->bm * 128, b = (size_t)t->bn * 128;
  const int64_t slices = maps_slices(q), tiles = cuda_div_up(q->m, t->bm);
  maps_room r = {.stages = t->stages};
  if (q->n <= t->bn && leave <= LEAVE_VECTORS && slices <= 64 && tiles > 264) {
    const size_t stay = (size_t)slices * b + buffers + 16;
    if (stay + 4 * (a + 16) <= limit) {
      r.stays = true;
      while (r.stages > 4 && stay + (size_t)r.stages * (a + 16) > limit) r.stages--;
      r.bytes = stay + (size_t)r.stages * (a + 16);
      return r;
    }
  }
  while (leave != LEAVE_BUFFER && r.stages > 2 && buffers + (size_t)r.stages * (a + b + 16) > limit) r.stages--;
  r.bytes = buffers + (size_t)r.stages * (a + b + 16);
  return r;
}

static size_t tile_shared(const gemm_problem *q, const gemm_tile *t, bool cores, gemm_leave leave) {
  if (!cores) return (size_t)(2 * t->bk * (t->bm + t->bn + 8) * 4 + 16);
  if (t->kind == GEMM_TMA) return maps_room_of(q, t, leave).bytes;
  const size_t loop = (size_t)t->stages * (size_t)(t->bm + t->bn) * (size_t)t->bk * 2;
  const size_t out = (size_t)t->warps_k * (size_t)t->bm * (size_t)(t->bn + 8) * 4 + 16;
  return loop > out ? loop : out;
}

/* Where groups end is not known: at worst each begins a tile, and so do rows of none. */
static int64_t tile_blocks(const gemm_problem *q, const gemm_tile *t) {
  const int64_t more = q->groups ? q->groups + 1 : 0, most = q->m + more;
  const int64_t rows = q->groups ? q->m / t->bm + more : cuda_div_up(q->m, t->bm);
  return (rows < most ? rows : most) * cuda_div_up(q->n, t->bn) * q->batches;
}

static double larger(double a, double b) { return a > b ? a : b; }

/* Blocks that run at the same time, `each` on a multiprocessor: clusters must fit into groups of 16 or so of these. */
static double cluster_slots(const cuda_facts *gpu, int split) {
  static const double of_132[GEMM_MAX_SPLIT + 1] = {132, 132, 128, 99, 112, 96, 96, 96, 96};
  return of_132[split] / 132 * (gpu->sm_count > 0 ? gpu->sm_count : 132);
}

/* gemm_tma.cu. A slice takes the largest of: its products (at the clock of short bursts, or at that of long ones); its way through the L2
 * cache (images by pixels take longer); the latency of memory, which all slices in flight share. */
static double maps_cost(const cuda_facts *gpu, const gemm_problem *q, const gemm_tile *t, int split, gemm_leave leave,
                        double tiles, double each) {
  const double area = (double)t->bm * t->bn, n = each < t->blocks ? each : t->blocks;
  const maps_room room = maps_room_of(q, t, leave);
  const double slices = (double)cuda_div_up(maps_slices(q), split);
  const double edge = t->bm * (q->image ? 2.1 : 1.0) + (room.stays ? 0 : t->bn);
  const double waves = (double)cuda_div_up((int64_t)tiles, (int64_t)(cluster_slots(gpu, split) * n));
  const double work = 2.0 * (double)q->m * (double)q->n * (double)q->k;
  const double rate = work < 15e9 ? 3.885e6 : work > 70e9 ? 3.355e6 : 3.885e6 - (work - 15e9) / 55e9 * 0.53e6;
  const double copies = larger(n * edge * 128 / 133.7e3, 1.178 / room.stages);
  if (slices <= 8 && split == 1) { /* few slices: fitted apart */
    const double few = larger(larger(n * area * 64 / 4.751e6, n * edge * 128 / 213.6e3), 0.082) + 0.207;
    const double start = leave != LEAVE_VECTORS ? 0.2 : area < 27000 ? 0.2 + area / 15000 : 2.0;
    return start + waves * (slices * few + n * area / (leave == LEAVE_VECTORS ? 23500 : 8084));
  }
  const double slice = larger(n * area * 64 / rate, copies);
  double finish = n * area /
                      (leave == LEAVE_VECTORS || leave == LEAVE_SUMS ? 12000
                       : leave == LEAVE_CLASSES                      ? 9000
                                                                     : 5500) +
                  0.78;
  if (leave == LEAVE_ROWS && t->warps_m == 3) finish *= 1.25;
  if (leave == LEAVE_SUMS) finish += 1.09 + 0.843 * split + area / 16860;
  double all = 0.785 + waves * (slices * slice + finish);
  if (!q->image && (t->warps_m == 4 || (t->warps_m == 2 && t->bn == 96))) all *= t->bn == 96 ? 1.2 : 1.02;
  const double reads = q->image ? 0 : tiles * ((double)t->bm + t->bn) * 128 * slices / 12e6;
  if (room.stays && t->blocks > 1) all *= 1.03;
  return larger(all, 0.785 + reads);
}

/* Microseconds, on an H100 in 16 bits; other GPUs differ, but keep the order of ways roughly. */
static double way_cost(const cuda_facts *gpu, const gemm_problem *q, const gemm_tile *t, int split, bool cores,
                       gemm_leave leave) {
  const double size = q->dtype == KILN_F32 ? 2 : 1; /* of an element against 2 bytes; tf32 has half the rate as well */
  const double sms = gpu->sm_count > 0 ? gpu->sm_count : 132, launch = -0.38;
  const double area = (double)t->bm * t->bn, edge = (double)t->bm + t->bn;
  const double tiles = (double)tile_blocks(q, t) * split;
  const double memory = 2 * size *
                        ((double)q->a_elements + (double)q->n * (double)q->k * (double)q->batches +
                         (double)q->m * (double)q->n * (double)q->batches) /
                        2.6e6;
  const int64_t bk = tile_bk(t, q->dtype, cores);
  const double each = (double)cuda_div_up((int64_t)tiles, (int64_t)sms);
  if (t->kind == GEMM_TMA) {
    const double all = maps_cost(gpu, q, t, split, leave, tiles, each);
    return larger(all, launch + memory) + 0.02 * all;
  }
  const double rate = (cores ? t->kind == GEMM_WGMMA ? 1.896e6 : 1.096e6 : 0.06e6) / (cores ? size : 1);
  const double slices = (double)cuda_div_up(cuda_div_up(q->k, bk), split);
  double resident = 2048.0 / tile_threads(t, cores, leave);
  const double room = (double)(int64_t)((double)gpu->shared_sm / ((double)tile_shared(q, t, cores, leave) + 1024));
  if (resident > t->blocks) resident = t->blocks;
  if (resident > room) resident = room;
  if (resident < 1) resident = 1;
  const double n = each < resident ? each : resident;
  const double slots = cores && gpu->arch >= 90 ? cluster_slots(gpu, split) : sms;
  double waves = tiles / (slots * n);
  if (n < resident)
    waves = 1;
  else if (waves <= 6)
    waves = (double)cuda_div_up((int64_t)tiles, (int64_t)(slots * n));
  const double bytes = n * edge * (double)bk * 2 * size * (q->image ? 1.97 : 1) / 188.8e3;
  const double slice = larger(larger(n * area * (double)bk / rate, bytes), 0.030) + 0.074;
  double finish = n * area / 23460 * (split > 1 ? 0.5 : 1) + (split > 1 ? 1.43 * (1 + 0.1 * split) : 0);
  if (split > 1 && t->kind == GEMM_WGMMA)
    finish += t->bn == 96 ? 6 : t->blocks == 2 ? 3 : area >= 16384 ? 1.5 : 0; /* as timed */
  const double all = launch + waves * (2.09 + slices * slice + finish);
  /* What all tiles together read passes the L2 cache: 5.4 TB/s were seen at 4096 x 2304 x 768. */
  const double reads = q->image ? 0 : tiles * edge * (double)q->k / split * 2 * size / 5.4e6;
  return larger(larger(all, launch + memory), launch + reads) + 0.02 * all;
}

static int compare_ways(const void *a, const void *b) {
  const gemm_way *x = a, *y = b;
  return x->cost < y->cost ? -1 : x->cost > y->cost ? 1 : 0;
}

/* Can the bulk tensor copy engine read both operands? */
static bool maps_fit(const gemm_problem *q) {
  const int64_t size = (int64_t)kiln_dtype_size(q->dtype);
  if (!q->a_aligned || !q->b_aligned || q->batches != 1 || q->k < 1) return false;
  if (q->lda * size % 16 != 0 || q->ldb * size % 16 != 0) return false;
  /* Rows that overlap. */
  if ((q->m > 1 && q->lda < (q->image ? q->image->channels : q->k)) || (q->n > 1 && q->ldb < q->k)) return false;
  if (!q->image) return true;
  const gemm_image *i = q->image;
  for (int d = 0; d < 2; d++) {
    if (i->pad[d] > 127 || i->reach[d] > 127 || i->pad_end[d] > 127 || i->stride[d] > 8) return false;
  }
  return i->channels * size % 16 == 0;
}

/* What a tile needs of the problem. */
static bool tile_fits(const cuda_facts *gpu, const gemm_problem *q, const gemm_tile *t, bool cores, gemm_leave leave) {
  if (tile_shared(q, t, cores, leave) > gpu->shared_block) return false;
  if (t->kind != GEMM_MMA && (gpu->arch != 90 || q->b_kn)) return false;
  if (t->kind == GEMM_TMA && (q->groups || !maps_fit(q))) return false;
  if (t->warps_m == 4 && (leave == LEAVE_ROWS || leave == LEAVE_CLASSES)) return false; /* little room for slices */
  if (q->b_kn && cores && (t->bn & (t->bn - 1)) != 0) return false;
  const int64_t m = q->m > 16 ? q->m : 16, n = q->n > 32 ? q->n : 32;
  return t->bm < 2 * m && t->bn < 2 * n;
}

static int list_ways(const cuda_facts *gpu, const gemm_problem *q, bool cores, gemm_leave leave,
                     gemm_way ways[GEMM_MAX_WAYS]) {
  static const int splits[] = {1, 2, 3, 4, 6, 8};
  const gemm_tile *tiles = cores ? tensor_tiles : plain_tiles;
  const size_t count = cores ? KILN_COUNT(tensor_tiles) : KILN_COUNT(plain_tiles);
  int n = 0;
  for (size_t i = 0; i < count; i++) {
    const gemm_tile *t = &tiles[i];
    if (!tile_fits(gpu, q, t, cores, leave)) continue;
    const int64_t blocks = tile_blocks(q, t);
    for (size_t s = 0; s < KILN_COUNT(splits) && n < GEMM_MAX_WAYS; s++) {
      const int split = splits[s];
      if (split > 1 && q->groups) continue;
      if (split > 1 && (blocks * split > (t->kind == GEMM_TMA ? t->blocks : 3) * 132 ||
                        cuda_div_up(q->k, tile_bk(t, q->dtype, cores)) < 2 * split))
        continue;
      ways[n++] = (gemm_way){t, split, way_cost(gpu, q, t, split, cores, way_leave(t, split, leave))};
    }
  }
  if (n == 0) ways[n++] = (gemm_way){&tiles[0], 1, 0};
  qsort(ways, (size_t)n, sizeof ways[0], compare_ways);
  return n;
}

/* ---- Text -------------------------------------------------------------------------------------------------------- */

static void put_problem(text *t, const kernel_prep *p, const gemm_problem *q, int vec_c) {
  const tensor *y = &p->args.out[0];
  text_printf(t, "#define BIAS_CONST %d\n", q->bias_constant);
  text_printf(t, "#define IN_TYPE %s\n#define OUT_TYPE %s\n#define BIAS_TYPE %s\n#define HAS_BIAS %d\n",
              cuda_mx_type(q->dtype), cuda_mx_type(y->dtype), cuda_mx_type(q->dtype), q->has_bias);
  if (q->groups)
    text_printf(t,
                "#define GROUPED 1\n#define N_GROUPS %lld\n#define ENDS_TYPE %s\n#define ENDS_STEP %lldLL\n"
                "#define GEMM_M m_end\n",
                (long long)q->groups, cuda_type(q->ends_dtype), (long long)q->ends_step);
  else
    text_printf(t, "#define GEMM_M %lld\n", (long long)q->m);
  text_printf(t, "#define GEMM_N %lld\n#define GEMM_K %lld\n", (long long)q->n, (long long)q->k);
  text_printf(t, "#define LDA %lldLL\n#define LDB %lldLL\n#define B_KN %d\n#define VEC_A %d\n#define VEC_B %d\n",
              (long long)q->lda, (long long)q->ldb, q->b_kn, q->vec_a, q->vec_b);
  text_printf(t, "#define VEC_C %d\n#define A_OFFSET(z) (%s)\n#define B_OFFSET(z) (%s)\n#define BIAS_OFFSET(z) (%s)\n",
              vec_c, q->a_offset, q->b_offset, q->bias_offset);
  text_printf(t,
              "#define PDL 1\n#define B_CONST %d\n#define EPILOGUE_PARAMS , const kiln_epi epi%s\n"
              "#define EPILOGUE(v, z, row, col) kiln_epilogue(v, epi, (long long)(%s), (int)(%s));\n"
              "#define C_AT(z, row, col) (kiln_out_row((long long)(%s)) + (long long)(%s) * KILN_OUT_STEP)\n",
              q->b_constant && !q->groups, q->groups ? ", const void *ends" : "", q->out_row, q->out_col, q->out_row,
              q->out_col);
  if (q->bias_period) text_printf(t, "#define BIAS_COL(n) ((n) %% %lld)\n", (long long)q->bias_period);
  text_printf(t, "#define CONV %d\n%s", q->image != NULL, q->image ? q->image->macros : "");
}

static void put_tile(text *t, const gemm_problem *q, const gemm_tile *tile, int64_t bk, bool cores, gemm_leave leave) {
  text_printf(t, "#define BN %d\n", tile->bn);
  if (tile->kind != GEMM_TMA) text_printf(t, "#define BM %d\n#define BK %lld\n", tile->bm, (long long)bk);
  if (!cores) {
    text_printf(t, "#define TM %d\n#define TN %d\n", tile->warps_m, tile->warps_n);
    return;
  }
  const maps_room room = tile->kind == GEMM_TMA ? maps_room_of(q, tile, leave) : (maps_room){.stages = tile->stages};
  text_printf(t, "#define STAGES %d\n#define MIN_CTAS %d\n", room.stages, tile->blocks);
  if (tile->kind == GEMM_TMA) {
    /* A B that the L2 cache does not hold is read fewer times. */
    const double b_bytes = (double)q->n * (double)q->k * (double)kiln_dtype_size(q->dtype);
    text_printf(t, "#define B_STAYS %d\n#define GROUPS %d\n#define STAGGER %d\n#define LEAVE %d\n#define GROUP_M %d\n",
                room.stays, tile->warps_m,
                tile->warps_m == 2 && leave != LEAVE_SUMS &&
                    (leave == LEAVE_BUFFER ? cuda_div_up(q->k, bk) >= 48 : tile->bn == 192),
                (int)leave, b_bytes > 30e6 ? 32 : 8);
    return;
  }
  text_printf(t, "#define MATH %d\n#define WARPS_M %d\n#define WARPS_N %d\n#define WARPS_K %d\n",
              tile->kind == GEMM_WGMMA, tile->warps_m, tile->warps_n, tile->warps_k);
}

static const char zero_text[] =
    "extern \"C\" __global__ void __launch_bounds__(256) zero_words(u32 *p, int n) {\n"
    "  KILN_WAIT;\n  const int i = blockIdx.x * 256 + threadIdx.x;\n  if (i < n) p[i] = 0;\n}\n";

static kiln_status plan_split(kernel_prep *p, const gemm_way *w, int64_t blocks, gemm_plan *out) {
  size_t floats;
  if (!size_mul((size_t)blocks * (size_t)w->split, (size_t)(w->tile->bm * w->tile->bn), &floats) ||
      floats > PTRDIFF_MAX / 4)
    return KILN_FAIL(KILN_OUT_OF_MEMORY, "partial sums are too large");
  out->counters = (size_t)blocks;
  KILN_TRY(workspace_reserve(p, (size_t)blocks * 4, &out->counters_at));
  KILN_TRY(workspace_reserve(p, floats * 4, &out->partials_at));
  return cuda_compile(p, &(cuda_source){.entry = "zero_words", .text = zero_text}, &out->zero);
}

/* Blocks stay and take tile after tile; the maps are made at each launch, when addresses are known. */
static void plan_maps(const cuda_facts *gpu, const gemm_problem *q, const gemm_tile *t, gemm_leave leave,
                      gemm_plan *out) {
  const unsigned room = (unsigned)(gpu->sm_count > 0 ? gpu->sm_count : 132) * (unsigned)t->blocks;
  if (leave == LEAVE_SUMS) {
    out->grid[0] *= out->grid[1];
    out->grid[1] = 1;
  } else if (out->grid[0] > room) {
    out->grid[0] = room;
  }
  out->tma = true;
  out->problem = *q;
  if (q->image) {
    out->image = *q->image;
    out->problem.image = &out->image;
  }
  out->box_a = t->bm;
  out->box_b = t->bn;
  out->ordered = leave == LEAVE_VECTORS;
  out->classes = leave == LEAVE_CLASSES;
}

kiln_status gemm_plan_make(kernel_prep *p, const gemm_problem *q, int rank, gemm_plan *out) {
  const cuda_facts *gpu = cuda_device_facts(p->device);
  const bool cores = uses_tensor_cores(p, q);
  gemm_way ways[GEMM_MAX_WAYS];
  *out = (gemm_plan){.m = (int)q->m};
  if (q->m == 0 || q->n == 0 || q->batches == 0) return KILN_OK;
  if (q->m > INT32_MAX - 512 || q->n > INT32_MAX - 512 || q->k > INT32_MAX - 512)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: a matrix of %lld x %lld x %lld is too large for a GPU kernel",
                     p->args.node->op->name, (long long)q->m, (long long)q->n, (long long)q->k);
  const int count = list_ways(gpu, q, cores, problem_leave(p, q), ways);
  const gemm_way *w = &ways[rank < count ? rank : count - 1];
  const gemm_tile *t = w->tile;
  const gemm_leave leave = way_leave(t, w->split, problem_leave(p, q));
  const int64_t blocks = tile_blocks(q, t);
  if (blocks > INT32_MAX)
    return KILN_FAIL(KILN_UNSUPPORTED, "%s: too many blocks for a GPU kernel", p->args.node->op->name);
  const bool cluster = w->split > 1 && cores && gpu->arch >= 90;
  text defines = {0};
  const char *epilogue = NULL, *front = NULL;
  KILN_TRY(cuda_epilogue_text(p, &epilogue));
  put_problem(&defines, p, q, !cores && q->vec_c > t->warps_n ? t->warps_n : q->vec_c);
  const int64_t bk = tile_bk(t, q->dtype, cores);
  put_tile(&defines, q, t, bk, cores, leave);
  text_printf(&defines, "#define SPLIT %d\n#define SPLIT_CLUSTER %d\n", w->split, cluster);
  text_puts(&defines, epilogue);
  text_puts(&defines, cuda_text_matrix_common);
  if (t->kind != GEMM_MMA) text_puts(&defines, cuda_text_wgmma);
  KILN_TRY(cuda_text_keep(p, &defines, &front));
  out->grid[0] = (unsigned)blocks;
  out->grid[1] = (unsigned)w->split;
  out->threads = (unsigned)tile_threads(t, cores, leave);
  out->shared = tile_shared(q, t, cores, leave);
  out->overlap = gpu->arch >= 90;
  if (w->split > 1 && !cluster) KILN_TRY(plan_split(p, w, blocks, out));
  if (t->kind == GEMM_TMA) plan_maps(gpu, q, t, leave, out);
  const char *const entries[] = {"kiln_gemm", "kiln_gemm", "kiln_gemm_tma"};
  const cuda_source source = {.entry = cores ? entries[t->kind] : "kiln_gemm_simt",
                              .defines = front,
                              .text = !cores                ? cuda_text_gemm_simt
                                      : t->kind == GEMM_TMA ? cuda_text_gemm_tma
                                                            : cuda_text_gemm,
                              .shared = out->shared,
                              .specific = t->kind != GEMM_MMA};
  return cuda_compile(p, &source, &out->function);
}

static kiln_status run_maps(const kernel_args *args, const gemm_plan *plan, const void *a, const void *b,
                            const void *bias) {
  const gemm_problem *q = &plan->problem;
  const int64_t size = (int64_t)kiln_dtype_size(q->dtype);
  const int row = (int)(128 / size);
  cuda_map map_a, map_b;
  if (q->image) {
    const gemm_image *i = q->image;
    const int64_t sizes[] = {i->channels, i->width, i->height, i->images};
    const int64_t pixel = q->lda * size, strides[] = {0, pixel, pixel * i->width, pixel * i->width * i->height};
    const int lower[] = {-(int)i->pad[1], -(int)i->pad[0]};
    const int upper[] = {(int)(i->pad_end[1] - i->reach[1]), (int)(i->pad_end[0] - i->reach[0])};
    const int step[] = {1, (int)i->stride[1], (int)i->stride[0], 1};
    KILN_TRY(cuda_map_im2col(args, &map_a, a, q->dtype, 4, sizes, strides, lower, upper, row, plan->box_a, step, 128));
  } else if (plan->classes) {
    const int64_t sizes[] = {q->k, 8, q->m / 8}, strides[] = {0, q->lda * size, 8 * q->lda * size};
    KILN_TRY(cuda_map_tiled(args, &map_a, a, q->dtype, 3, sizes, strides, (int[]){row, 1, plan->box_a}, 128));
  } else {
    const int64_t sizes[] = {q->k, q->m}, strides[] = {0, (q->m > 1 ? q->lda : q->k) * size};
    KILN_TRY(cuda_map_tiled(args, &map_a, a, q->dtype, 2, sizes, strides, (int[]){row, plan->box_a}, 128));
  }
  const int64_t pitch = q->ldb * size;
  if (plan->ordered) { /* see copy_rows of gemm_tma.cu */
    const int64_t sizes[] = {q->k, 2, 4, 4, q->n / 32}, strides[] = {0, pitch, 8 * pitch, 2 * pitch, 32 * pitch};
    const int box[] = {row, 2, 4, 4, plan->box_b / 32};
    KILN_TRY(cuda_map_tiled(args, &map_b, b, q->dtype, 5, sizes, strides, box, 128));
  } else {
    const int64_t sizes[] = {q->k, q->n}, strides[] = {0, pitch};
    KILN_TRY(cuda_map_tiled(args, &map_b, b, q->dtype, 2, sizes, strides, (int[]){row, plan->box_b}, 128));
  }
  void *c = args->out[0].data;
  cuda_epilogue_args epilogue;
  cuda_epilogue_fill(args, &epilogue);
  const cuda_launch_config launch = {
      .function = plan->function,
      .grid = {plan->grid[0], 1, 1},
      .block = {plan->threads, 1, 1},
      .shared = plan->shared,
      .overlap = plan->overlap,
      .params = CUDA_PARAMS(&map_a, &map_b, &c, &bias, &epilogue),
  };
  return cuda_launch(args, &launch);
}

static kiln_status run_plan(const kernel_args *args, const gemm_plan *plan, const void *a, const void *b,
                            const void *bias, const void *ends) {
  void *c = args->out[0].data, *counters = NULL, *partials = NULL;
  int m = plan->m;
  cuda_epilogue_args epilogue;
  cuda_epilogue_fill(args, &epilogue);
  if (plan->counters) {
    int words = (int)plan->counters;
    counters = (char *)args->workspace + plan->counters_at;
    partials = (char *)args->workspace + plan->partials_at;
    KILN_TRY(cuda_launch_1d(args, plan->zero, cuda_div_up(words, 256), 256, 0, CUDA_PARAMS(&counters, &words)));
  }
  const cuda_launch_config launch = {
      .function = plan->function,
      .grid = {plan->grid[0], plan->grid[1], 1},
      .block = {plan->threads, 1, 1},
      .shared = plan->shared,
      .overlap = plan->overlap,
      .params = CUDA_PARAMS(&a, &b, &c, &bias, &partials, &counters, &m, &epilogue, &ends),
  };
  return cuda_launch(args, &launch);
}

kiln_status gemm_plan_run(const kernel_args *args, const gemm_plan *plan, const void *a, const void *b,
                          const void *bias) {
  if (!plan->function) return KILN_OK;
  return plan->tma ? run_maps(args, plan, a, b, bias) : run_plan(args, plan, a, b, bias, NULL);
}

kiln_status gemm_plan_run_groups(const kernel_args *args, const gemm_plan *plan, const void *a, const void *b,
                                 const void *ends) {
  return plan->function ? run_plan(args, plan, a, b, NULL, ends) : KILN_OK;
}
