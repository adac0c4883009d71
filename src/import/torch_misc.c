/* Lowerings that cut across families: dtype conversions, copies, and calls that say something about a tensor but
 * compute nothing. */
#include "import/torch_misc.h"

#include "import/complex.h"
#include "import/fourier.h"
#include "import/lower.h"
#include "import/torch_counts.h"
#include "ops/lowering.h"

static kiln_status tensor_arg(lower_call *c, const char *name, value **out) {
  *out = call_tensor(c, name);
  return *out ? KILN_OK : LOWER_FAIL(c, "argument %s: expected a tensor", name);
}

static bool has_arg(const lower_call *c, const char *name) {
  for (int32_t i = 0; i < c->schema->n_args; i++)
    if (str_eq(c->schema->args[i].name, name)) return true;
  return false;
}

/* .to() gives the tensor itself if nothing changes, unless a copy is asked for. */
static kiln_status convert(lower_call *c, value *x, kiln_dtype dtype, bool copy) {
  if (dtype == x->type.dtype && !copy)
    call_return_view(c, 0, c->schema->args[0].name, x);
  else
    call_return(c, 0, lower_cast(&c->b, x, dtype));
  return KILN_OK;
}

static kiln_status lower_to(lower_call *c) {
  value *x;
  KILN_TRY(tensor_arg(c, c->schema->args[0].name, &x));
  const ivalue *dtype = call_arg(c, "dtype");
  kiln_dtype part;
  if (complex_dtype(dtype, &part)) {
    x = lower_cast(&c->b, x, part);
    if (x) complex_return(c, 0, (complex_value){x, lowering_full(&c->b, part, x->type.rank, x->type.dims, 0)});
    return KILN_OK;
  }
  if (dtype->kind == IV_DTYPE && dtype->u.i < 0)
    return LOWER_FAIL(c, "argument dtype: Kiln has no quantized, 8-bit float, or unsigned types other than uint8");
  const bool copy = !has_arg(c, "copy") || call_bool(c, "copy");
  return convert(c, x, dtype->kind == IV_DTYPE ? (kiln_dtype)dtype->u.i : x->type.dtype, copy);
}

static kiln_status lower_to_other(lower_call *c) {
  value *x, *other;
  KILN_TRY(tensor_arg(c, "self", &x));
  KILN_TRY(tensor_arg(c, "other", &other));
  return convert(c, x, other->type.dtype, has_arg(c, "copy") && call_bool(c, "copy"));
}

static kiln_status lower_copy_to(lower_call *c) {
  value *x, *src;
  KILN_TRY(tensor_arg(c, "self", &x));
  KILN_TRY(tensor_arg(c, "src", &src));
  src = lower_cast(&c->b, src, x->type.dtype);
  call_return(c, 0, lower_expand(&c->b, src, x->type.rank, x->type.dims));
  return KILN_OK;
}

static kiln_status lower_itself(lower_call *c) {
  value *x;
  KILN_TRY(tensor_arg(c, c->schema->args[0].name, &x));
  call_return_view(c, 0, c->schema->args[0].name, x);
  return KILN_OK;
}

/* The same bits under another dtype: only where that is no change. */
static kiln_status lower_view_dtype(lower_call *c) {
  value *x;
  KILN_TRY(tensor_arg(c, "self", &x));
  if (call_int(c, "dtype") != (dim)x->type.dtype)
    return LOWER_FAIL(c, "reinterpreting the bits of a tensor as another dtype is not supported");
  call_return_view(c, 0, "self", x);
  return KILN_OK;
}

static kiln_status lower_shape_tensor(lower_call *c) {
  value *x, *sizes[KILN_MAX_RANK];
  KILN_TRY(tensor_arg(c, "self", &x));
  const dim one = 1;
  for (int i = 0; i < x->type.rank; i++)
    sizes[i] = lower_reshape(&c->b, lower_size_tensor(&c->b, x->type.dims[i]), 1, &one);
  if (x->type.rank == 0) return LOWER_FAIL(c, "the shape of a rank-0 tensor");
  call_return(c, 0, build(&c->b, "concat", x->type.rank, sizes, ATTRS(A_INT("axis", 0))));
  return KILN_OK;
}

/* x[1:] - x[:-1] along an axis, n times, between optional ends; bools differ by xor. */
static kiln_status lower_diff(lower_call *c) {
  value *x, *parts[3];
  int axis, count = 0;
  KILN_TRY(tensor_arg(c, "self", &x));
  KILN_TRY(lowering_axis(c, "dim", x->type.rank, &axis));
  const dim times = call_int(c, "n");
  if (x->type.rank == 0 || !dim_is_const(times) || times < 0 || times > 64)
    return LOWER_FAIL(c, "expected a tensor with dimensions, and n in 0..64");
  if (!call_is_none(c, "prepend")) parts[count++] = lower_cast(&c->b, call_tensor(c, "prepend"), x->type.dtype);
  parts[count++] = x;
  if (!call_is_none(c, "append")) parts[count++] = lower_cast(&c->b, call_tensor(c, "append"), x->type.dtype);
  if (count > 1) x = build(&c->b, "concat", count, parts, ATTRS(A_INT("axis", axis)));
  for (dim i = 0; i < times && x; i++) {
    const dim size = x->type.dims[axis];
    value *after = lowering_slice(&c->b, x, axis, 1, size, 1);
    value *before = lowering_slice(&c->b, x, axis, 0, dim_sub(c->b.graph->dims, size, 1), 1);
    x = lower_binary(&c->b, x->type.dtype == KILN_BOOL ? "logical_xor" : "sub", after, before);
  }
  call_return(c, 0, x);
  return KILN_OK;
}

const torch_row torch_misc[] = {
    {"aten::to.dtype(Tensor(a) self, ScalarType dtype, bool non_blocking=False, bool copy=False, MemoryFormat? "
     "memory_format=None) -> Tensor(a)",
     NULL, lower_to},
    {"aten::to.dtype_layout(Tensor(a) self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None, bool "
     "non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) -> Tensor(a)",
     NULL, lower_to},
    {"aten::to.device(Tensor(a) self, Device device, ScalarType dtype, bool non_blocking=False, bool copy=False, "
     "MemoryFormat? "
     "memory_format=None) -> Tensor(a)",
     NULL, lower_to},
    {"aten::to.prim_Device(Tensor(a) self, Device? device, int? dtype=None, bool non_blocking=False, bool copy=False) "
     "-> Tensor(a)",
     NULL, lower_itself},
    {"aten::to.other(Tensor(a) self, Tensor other, bool non_blocking=False, bool copy=False, MemoryFormat? "
     "memory_format=None) -> Tensor(a)",
     NULL, lower_to_other},
    {"aten::_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None, bool "
     "non_blocking=False, MemoryFormat? memory_format=None) -> Tensor",
     NULL, lower_to},
    {"prims::convert_element_type(Tensor a, ScalarType dtype) -> Tensor", NULL, lower_to},
    {"aten::type_as(Tensor self, Tensor other) -> Tensor", NULL, lower_to_other},
    {"aten::copy(Tensor self, Tensor src, bool non_blocking=False) -> Tensor", NULL, lower_copy_to},
    {"aten::view.dtype(Tensor(a) self, ScalarType dtype) -> Tensor(a)", NULL, lower_view_dtype},
    {"aten::resolve_conj(Tensor(a) self) -> Tensor(a)", NULL, lower_itself},
    {"aten::resolve_neg(Tensor(a) self) -> Tensor(a)", NULL, lower_itself},
    {"aten::real(Tensor(a) self) -> Tensor(a)", NULL, lower_itself},
    {"aten::conj(Tensor(a) self) -> Tensor(a)", NULL, lower_itself},
    {"aten::cpu(Tensor self) -> Tensor", NULL, lower_itself},
    {"aten::requires_grad_(Tensor(a!) self, bool requires_grad=True) -> Tensor(a!)", NULL, lower_itself},
    {"aten::_shape_as_tensor(Tensor self) -> Tensor", NULL, lower_shape_tensor},
    {"aten::diff(Tensor self, int n=1, int dim=-1, Tensor? prepend=None, Tensor? append=None) -> Tensor", NULL,
     lower_diff},
    {"aten::diag(Tensor self, int diagonal=0) -> Tensor", NULL, lower_diag},
    {"aten::diag_embed(Tensor self, int offset=0, int dim1=-2, int dim2=-1) -> Tensor", NULL, lower_diag_embed},
    {"aten::diagonal_scatter(Tensor self, Tensor src, int offset=0, int dim1=0, int dim2=1) -> Tensor", NULL,
     lower_diagonal_scatter_call},
    {"aten::fill_diagonal_(Tensor(a!) self, Scalar fill_value, bool wrap=False) -> Tensor(a!)", NULL,
     lower_fill_diagonal},
    {"aten::mse_loss(Tensor self, Tensor target, int reduction=1) -> Tensor", NULL, lower_elementwise_loss},
    {"aten::l1_loss(Tensor self, Tensor target, int reduction=1) -> Tensor", NULL, lower_elementwise_loss},
    {"aten::smooth_l1_loss(Tensor self, Tensor target, int reduction=1, float beta=1.) -> Tensor", NULL,
     lower_elementwise_loss},
    {"aten::huber_loss(Tensor self, Tensor target, int reduction=1, float delta=1.) -> Tensor", NULL,
     lower_elementwise_loss},
    {"aten::binary_cross_entropy(Tensor self, Tensor target, Tensor? weight=None, int reduction=1) -> Tensor", NULL,
     lower_elementwise_loss},
    {"aten::binary_cross_entropy_with_logits(Tensor self, Tensor target, Tensor? weight=None, Tensor? pos_weight=None, "
     "int reduction=1) -> "
     "Tensor",
     NULL, lower_elementwise_loss},
    {"aten::kl_div(Tensor self, Tensor target, int reduction=1, *, bool log_target=False) -> Tensor", NULL,
     lower_elementwise_loss},
    {"aten::nll_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100) -> "
     "Tensor",
     NULL, lower_nll_loss},
    {"aten::nll_loss_nd(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100) -> "
     "Tensor",
     NULL, lower_nll_loss},
    {"aten::cross_entropy_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt "
     "ignore_index=-100, float "
     "label_smoothing=0.) -> Tensor",
     NULL, lower_cross_entropy_loss},
    {"aten::bucketize.Tensor(Tensor self, Tensor boundaries, *, bool out_int32=False, bool right=False) -> Tensor",
     NULL, lower_search},
    {"aten::searchsorted.Tensor(Tensor sorted_sequence, Tensor self, *, bool out_int32=False, bool right=False, str? "
     "side=None, Tensor? "
     "sorter=None) -> Tensor",
     NULL, lower_search},
    {"aten::isin.Tensor_Tensor(Tensor elements, Tensor test_elements, *, bool assume_unique=False, bool invert=False) "
     "-> Tensor",
     NULL, lower_is_in},
    {"aten::isin.Tensor_Scalar(Tensor elements, Scalar test_element, *, bool assume_unique=False, bool invert=False) "
     "-> Tensor",
     NULL, lower_is_in},
    {"aten::linalg_matrix_exp(Tensor self) -> Tensor", NULL, lower_matrix_exp},
    {"aten::matrix_exp(Tensor self) -> Tensor", NULL, lower_matrix_exp},
    {"aten::histogram.bin_ct(Tensor self, int bins=100, *, float[]? range=None, Tensor? weight=None, bool "
     "density=False) -> "
     "(Tensor hist, Tensor bin_edges)",
     NULL, lower_histogram},
    {"aten::histogram.bins_tensor(Tensor self, Tensor bins, *, Tensor? weight=None, bool density=False) -> (Tensor "
     "hist, "
     "Tensor bin_edges)",
     NULL, lower_histogram},
    {"aten::multilabel_margin_loss_forward(Tensor self, Tensor target, int reduction) -> (Tensor output, Tensor "
     "is_target)",
     NULL, lower_multilabel_margin_loss},
    {"aten::nanmedian(Tensor self) -> Tensor", NULL, lower_median},
    {"aten::nanmedian.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", NULL,
     lower_median},
    {"aten::median(Tensor self) -> Tensor", NULL, lower_median},
    {"aten::median.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", NULL,
     lower_median},
    {"aten::as_strided_scatter(Tensor self, Tensor src, SymInt[] size, SymInt[] stride, SymInt? storage_offset=None) "
     "-> Tensor",
     NULL, lower_as_strided_scatter},
    {"aten::_weight_norm(Tensor v, Tensor g, int dim=0) -> Tensor", NULL, lower_weight_norm},
    {"aten::_weight_norm_interface(Tensor v, Tensor g, int dim=0) -> (Tensor, Tensor)", NULL, lower_weight_norm},
    {"aten::kron(Tensor self, Tensor other) -> Tensor", NULL, lower_kron},
    {"aten::dist(Tensor self, Tensor other, Scalar p=2) -> Tensor", NULL, lower_dist},
    {"aten::ldexp.Tensor(Tensor self, Tensor other) -> Tensor", NULL, lower_ldexp},
    {"aten::linalg_cross(Tensor self, Tensor other, *, int dim=-1) -> Tensor", NULL, lower_cross},
    {"aten::linalg_multi_dot(Tensor[] tensors) -> Tensor", NULL, lower_multi_dot},
    {"aten::hann_window(int window_length, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? "
     "pin_memory=None) -> Tensor",
     NULL, lower_window},
    {"aten::hann_window.periodic(int window_length, bool periodic, *, ScalarType? dtype=None, Layout? layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_window},
    {"aten::blackman_window(int window_length, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
     "bool? pin_memory=None) -> Tensor",
     NULL, lower_window},
    {"aten::blackman_window.periodic(int window_length, bool periodic, *, ScalarType? dtype=None, Layout? layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_window},
    {"aten::hamming_window(int window_length, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, "
     "bool? pin_memory=None) -> Tensor",
     NULL, lower_window},
    {"aten::hamming_window.periodic(int window_length, bool periodic, *, ScalarType? dtype=None, Layout? layout=None, "
     "Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_window},
    {"aten::imag(Tensor(a) self) -> Tensor(a)", NULL, lower_needs_complex},
    {"aten::view_as_real(Tensor(a) self) -> Tensor(a)", NULL, lower_needs_complex},
    {"aten::view_as_real_copy(Tensor self) -> Tensor", NULL, lower_needs_complex},
    {"aten::view_as_complex(Tensor(a) self) -> Tensor(a)", NULL, lower_view_as_complex},
    {"aten::complex(Tensor real, Tensor imag) -> Tensor", NULL, lower_complex},
    {"aten::polar(Tensor abs, Tensor angle) -> Tensor", NULL, lower_polar},
    {"aten::_conj(Tensor(a) self) -> Tensor(a)", NULL, lower_itself},
    {"aten::_conj_physical(Tensor self) -> Tensor", NULL, lower_itself},
    {"aten::conj_physical(Tensor self) -> Tensor", NULL, lower_itself},
    {"aten::_fft_r2c(Tensor self, int[] dim, int normalization, bool onesided) -> Tensor", NULL, lower_fft_r2c},
    {"aten::_fft_c2r(Tensor self, int[] dim, int normalization, SymInt last_dim_size) -> Tensor", NULL, lower_fft_c2r},
    {"aten::_fft_c2c(Tensor self, SymInt[] dim, int normalization, bool forward) -> Tensor", NULL, lower_fft_c2c},
    {"aten::fft_fft(Tensor self, SymInt? n=None, int dim=-1, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_ifft(Tensor self, SymInt? n=None, int dim=-1, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_rfft(Tensor self, SymInt? n=None, int dim=-1, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_irfft(Tensor self, SymInt? n=None, int dim=-1, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_fft2(Tensor self, SymInt[1]? s=None, int[1] dim=[-2, -1], str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_ifft2(Tensor self, SymInt[1]? s=None, int[1] dim=[-2, -1], str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_rfft2(Tensor self, SymInt[1]? s=None, int[1] dim=[-2, -1], str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_irfft2(Tensor self, SymInt[1]? s=None, int[1] dim=[-2, -1], str? norm=None) -> Tensor", NULL,
     lower_fft},
    {"aten::fft_fftn(Tensor self, SymInt[1]? s=None, int[1]? dim=None, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_ifftn(Tensor self, SymInt[1]? s=None, int[1]? dim=None, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_rfftn(Tensor self, SymInt[1]? s=None, int[1]? dim=None, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::fft_irfftn(Tensor self, SymInt[1]? s=None, int[1]? dim=None, str? norm=None) -> Tensor", NULL, lower_fft},
    {"aten::stft(Tensor self, int n_fft, int? hop_length=None, int? win_length=None, Tensor? window=None, bool "
     "normalized=False, bool? onesided=None, bool? return_complex=None, bool? align_to_window=None) -> Tensor",
     NULL, lower_stft},
    {"aten::stft.center(Tensor self, int n_fft, int? hop_length=None, int? win_length=None, Tensor? window=None, bool "
     "center=True, str pad_mode=\"reflect\", bool normalized=False, bool? onesided=None, bool? return_complex=None, "
     "bool? align_to_window=None) -> Tensor",
     NULL, lower_stft},
    {"aten::istft(Tensor self, int n_fft, int? hop_length=None, int? win_length=None, Tensor? window=None, bool "
     "center=True, bool normalized=False, bool? onesided=None, int? length=None, bool return_complex=False) -> Tensor",
     NULL, lower_istft},
    {"aten::mode(Tensor self, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)", NULL, lower_mode},
    {"aten::bincount(Tensor self, Tensor? weights=None, SymInt minlength=0) -> Tensor", NULL, lower_bincount},
    {"aten::nonzero_static(Tensor self, *, SymInt size, int fill_value=-1) -> Tensor", NULL, lower_nonzero_static},
    {"aten::pdist(Tensor self, float p=2.) -> Tensor", NULL, lower_pdist},
    {"aten::_pdist_forward(Tensor self, float p=2.) -> Tensor", NULL, lower_pdist},
    {"aten::embedding_renorm_(Tensor(a!) self, Tensor indices, float max_norm, float norm_type) -> Tensor(a!)", NULL,
     lower_embedding_renorm},
    {"aten::linspace.Tensor_Tensor(Tensor start, Tensor end, int steps, *, ScalarType? dtype=None, Layout? "
     "layout=None, Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_linspace_between},
    {"aten::linspace.Tensor_Scalar(Tensor start, Scalar end, int steps, *, ScalarType? dtype=None, Layout? "
     "layout=None, Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_linspace_between},
    {"aten::linspace.Scalar_Tensor(Scalar start, Tensor end, int steps, *, ScalarType? dtype=None, Layout? "
     "layout=None, Device? device=None, bool? pin_memory=None) -> Tensor",
     NULL, lower_linspace_between},
    {NULL, NULL, NULL},
};
