/* Shared by the matrix kernels (gemm.cu, gemm_simt.cu, attention.cu, depthwise.cu): element types, asynchronous copies,
 * matrix fragments. No CUDA header is needed. f16 and bf16 are stored as 16-bit words; arithmetic is f32.
 * Names start with mx_ so that text in front (epilogues) may use its own. */

typedef unsigned int mx_u32;
typedef unsigned short mx_u16;
typedef unsigned long long mx_u64;

#define MX_F16 0
#define MX_BF16 1
#define MX_F32 2
#define MX_F64 3 /* conv_direct.cu only */

__device__ __forceinline__ float mx_from_f16(mx_u16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
__device__ __forceinline__ float mx_from_bf16(mx_u16 h) { return __uint_as_float((mx_u32)h << 16); }
__device__ __forceinline__ mx_u16 mx_to_f16(float f) {
  mx_u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
__device__ __forceinline__ mx_u16 mx_to_bf16(float f) {
  mx_u16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
/* lo in the low half. */
__device__ __forceinline__ mx_u32 mx_pack_f16(float lo, float hi) {
  mx_u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ mx_u32 mx_pack_bf16(float lo, float hi) {
  mx_u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}

/* One value of type TYPE (MX_*) at p[i]. */
template <int TYPE>
__device__ __forceinline__ float mx_load1(const void *p, long long i) {
  if (TYPE == MX_F32) return ((const float *)p)[i];
  mx_u16 h = ((const mx_u16 *)p)[i];
  return TYPE == MX_F16 ? mx_from_f16(h) : mx_from_bf16(h);
}
template <int TYPE>
__device__ __forceinline__ void mx_store1(void *p, long long i, float v) {
  if (TYPE == MX_F32) ((float *)p)[i] = v;
  else ((mx_u16 *)p)[i] = TYPE == MX_F16 ? mx_to_f16(v) : mx_to_bf16(v);
}
template <int TYPE>
__device__ __forceinline__ void mx_unpack2(mx_u32 w, float &lo, float &hi) {
  if (TYPE == MX_F16) {
    lo = mx_from_f16((mx_u16)(w & 0xffffu));
    hi = mx_from_f16((mx_u16)(w >> 16));
  } else {
    lo = __uint_as_float(w << 16);
    hi = __uint_as_float(w & 0xffff0000u);
  }
}
template <int TYPE>
__device__ __forceinline__ mx_u32 mx_pack2(float lo, float hi) {
  return TYPE == MX_F16 ? mx_pack_f16(lo, hi) : mx_pack_bf16(lo, hi);
}

/* N values from p[i], whose address is a multiple of N elements (at most 16 bytes each access). */
template <int TYPE, int N>
__device__ __forceinline__ void mx_load(const void *p, long long i, float *v) {
  if (TYPE == MX_F32) {
    const float *f = (const float *)p + i;
    if (N % 4 == 0) {
#pragma unroll
      for (int j = 0; j < N; j += 4) {
        float4 q = *(const float4 *)(f + j);
        v[j] = q.x; v[j + 1] = q.y; v[j + 2] = q.z; v[j + 3] = q.w;
      }
    } else if (N == 2) {
      float2 q = *(const float2 *)f;
      v[0] = q.x; v[1] = q.y;
    } else {
#pragma unroll
      for (int j = 0; j < N; j++) v[j] = f[j];
    }
    return;
  }
  const mx_u16 *h = (const mx_u16 *)p + i;
  if (N % 8 == 0) {
#pragma unroll
    for (int j = 0; j < N; j += 8) {
      uint4 q = *(const uint4 *)(h + j);
      mx_unpack2<TYPE>(q.x, v[j], v[j + 1]); mx_unpack2<TYPE>(q.y, v[j + 2], v[j + 3]);
      mx_unpack2<TYPE>(q.z, v[j + 4], v[j + 5]); mx_unpack2<TYPE>(q.w, v[j + 6], v[j + 7]);
    }
  } else if (N == 4) {
    uint2 q = *(const uint2 *)h;
    mx_unpack2<TYPE>(q.x, v[0], v[1]); mx_unpack2<TYPE>(q.y, v[2], v[3]);
  } else if (N == 2) {
    mx_unpack2<TYPE>(*(const mx_u32 *)h, v[0], v[1]);
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) v[j] = TYPE == MX_F16 ? mx_from_f16(h[j]) : mx_from_bf16(h[j]);
  }
}
template <int TYPE, int N>
__device__ __forceinline__ void mx_store(void *p, long long i, const float *v) {
  if (TYPE == MX_F32) {
    float *f = (float *)p + i;
    if (N % 4 == 0) {
#pragma unroll
      for (int j = 0; j < N; j += 4) *(float4 *)(f + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
    } else if (N == 2) {
      *(float2 *)f = make_float2(v[0], v[1]);
    } else {
#pragma unroll
      for (int j = 0; j < N; j++) f[j] = v[j];
    }
    return;
  }
  mx_u16 *h = (mx_u16 *)p + i;
  if (N % 8 == 0) {
#pragma unroll
    for (int j = 0; j < N; j += 8)
      *(uint4 *)(h + j) = make_uint4(mx_pack2<TYPE>(v[j], v[j + 1]), mx_pack2<TYPE>(v[j + 2], v[j + 3]),
                                     mx_pack2<TYPE>(v[j + 4], v[j + 5]), mx_pack2<TYPE>(v[j + 6], v[j + 7]));
  } else if (N == 4) {
    *(uint2 *)h = make_uint2(mx_pack2<TYPE>(v[0], v[1]), mx_pack2<TYPE>(v[2], v[3]));
  } else if (N == 2) {
    *(mx_u32 *)h = mx_pack2<TYPE>(v[0], v[1]);
  } else {
#pragma unroll
    for (int j = 0; j < N; j++) h[j] = TYPE == MX_F16 ? mx_to_f16(v[j]) : mx_to_bf16(v[j]);
  }
}

__device__ __forceinline__ mx_u32 mx_shared(const void *p) { return (mx_u32)__cvta_generic_to_shared(p); }

/* Copies BYTES (4, 8 or 16) to shared memory without waiting; zeros if !ok (src is then not read). */
template <int BYTES>
__device__ __forceinline__ void mx_copy_async(mx_u32 dst, const void *src, bool ok) {
  int n = ok ? BYTES : 0;
  if (BYTES == 16) asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(dst), "l"(src), "n"(BYTES), "r"(n) : "memory");
}
__device__ __forceinline__ void mx_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void mx_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Position of 16-byte chunk `chunk` of row `row` in a tile whose rows have `CHUNKS` chunks, so that 8 rows' chunks of one column
 * lie in different banks. With 8 chunks it is the 128-byte swizzle of the copy engine and of wgmma. */
template <int CHUNKS>
__device__ __forceinline__ int mx_swizzle(int row, int chunk) {
  if (CHUNKS >= 8) return chunk ^ (row & 7);
  if (CHUNKS == 4) return chunk ^ ((row >> 1) & 3);
  if (CHUNKS == 2) return chunk ^ ((row >> 2) & 1);
  return chunk;
}

__device__ __forceinline__ void mx_ldmatrix4(mx_u32 *r, mx_u32 addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(addr)
               : "memory");
}
__device__ __forceinline__ void mx_ldmatrix4_trans(mx_u32 *r, mx_u32 addr) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(addr)
               : "memory");
}

/* d += a (16 rows) * b (8 columns); k is 16 for 16-bit types, 8 for f32 as tf32. */
template <int TYPE>
__device__ __forceinline__ void mx_mma(float *d, const mx_u32 *a, mx_u32 b0, mx_u32 b1) {
  if (TYPE == MX_F16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else if (TYPE == MX_BF16)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ mx_u32 mx_round_tf32(mx_u32 x) {
  mx_u32 r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(x)));
  return r;
}

#ifndef GROUPED /* 1: rows are of N_GROUPS groups, those of group z end at ends[z * ENDS_STEP]; GEMM_M is `m_end` */
#define GROUPED 0
#endif
#if GROUPED
/* Tiles of one group follow those of the one before; rows behind the last group are of group N_GROUPS, which has no B. Ends that do not
 * rise make empty groups. Is there a tile `tile`? */
__device__ __forceinline__ bool mx_group_tile(const void *ends, int tile, int rows, int &z, int &m0, int &m_end) {
  int begin = 0;
  for (z = 0; z <= N_GROUPS; z++) {
    long long end = rows;
    if (z < N_GROUPS) end = min(max((long long)((const ENDS_TYPE *)ends)[z * ENDS_STEP], (long long)begin), (long long)rows);
    const int n = ((int)end - begin + BM - 1) / BM;
    if (tile < n) {
      m0 = begin + tile * BM;
      m_end = (int)end;
      return true;
    }
    tile -= n;
    begin = (int)end;
  }
  return false;
}
#endif

/* BIAS_CONST: the bias is a weight. Only of such operands the compiler may know that nothing else writes them (docs/decisions/0014), and ask for
 * them before it has the product. */
#ifndef BIAS_CONST
#define BIAS_CONST 0
#endif
#if BIAS_CONST
#define BIAS_PARAM const void *__restrict__ bias
#else
#define BIAS_PARAM const void *bias
#endif

/* Programmatic dependent launch (sm_90): this kernel may be scheduled early. Memory of earlier kernels is visible behind the wait; from
 * then on, and not before, the next kernel may be scheduled: see KILN_WAIT in prelude.c. PDL 0: no code. */
#ifndef PDL
#define PDL 0
#endif
__device__ __forceinline__ void mx_grid_wait() {
#if PDL && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
