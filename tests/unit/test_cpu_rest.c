/* CPU kernels other than matrix work, against the reference: odd sizes, strides, NaN and infinities, empty tensors. */
#include "cpu_check.h"

static void test_pointwise_all_rows(void **state) {
  (void)state;
  for (int i = 0; i < op_count(); ++i) {
    const op *o = op_at(i);
    const op_schema *s = op_schema_of(o);
    if (!(o->flags & OP_POINTWISE) || !o->expression || !o->scalar || s->n_in > 2) continue;
    bool has_required = false;
    for (int k = 0; k < s->n_attrs; ++k) has_required |= !s->attrs[k].has_default && !s->attrs[k].optional;
    if (has_required) continue;
    const double tolerance = o->tolerance > 0.0f ? 4.0 * (double)o->tolerance : 0.0;
    const int64_t sizes[] = {1, 15, 17, 2500};
    for (size_t k = 0; k < KILN_COUNT(sizes); ++k) {
      check_in in[2] = {F32_POSITIVE(0), F32_POSITIVE(0)};
      in[0].shape[0] = in[1].shape[0] = sizes[k];
      if (k & 1) in[0].fill = in[1].fill = FILL_NORMAL;
      check_op(o->name, s->n_in, in, NO_ATTRS, tolerance);
    }
  }
}

static void test_pointwise_special_values(void **state) {
  (void)state;
  static const char *const names[] = {"relu",  "sigmoid", "tanh", "exp",   "expm1", "exp2",  "log",   "log2",
                                      "log10", "log1p",   "sqrt", "rsqrt", "sin",   "cos",   "erf",   "gelu",
                                      "silu",  "abs",     "neg",  "sign",  "isnan", "isinf", "floor", "logical_not"};
  for (size_t i = 0; i < KILN_COUNT(names); ++i) check_op(names[i], INS(F32_SPECIAL(333)), NO_ATTRS, 4e-6);
  static const char *const binary[] = {"add", "mul", "div", "maximum", "minimum",    "eq",
                                       "lt",  "ge",  "ne",  "pow",     "logical_and"};
  for (size_t i = 0; i < KILN_COUNT(binary); ++i)
    check_op(binary[i], INS(F32_SPECIAL(517), F32_SPECIAL(517)), NO_ATTRS, 4e-6);
  check_op("clamp", INS(F32_SPECIAL(100)), ATTRS(A_FLOAT("min", -1.0), A_FLOAT("max", 1.0)), 0);
}

static void test_pointwise_broadcast(void **state) {
  (void)state;
  check_op("add", INS(F32(2, 3, 5, 7), F32(3, 1, 1)), NO_ATTRS, 0);
  check_op("add", INS(F32(2, 3, 5, 7), F32(7)), NO_ATTRS, 0);
  check_op("mul", INS(F32(2, 64, 33, 16), F32(2, 1, 1, 16)), NO_ATTRS, 0);
  check_op("sub", INS(F32(5, 1), F32(1, 4000)), NO_ATTRS, 0);
  check_op("mul", INS(F32(1), F32(9, 100)), NO_ATTRS, 0);
  check_op("maximum", INS(F32(4, 1, 6), F32(3, 1)), NO_ATTRS, 0);
  check_op("add", INS(F32(0, 4), F32(4)), NO_ATTRS, 0);
  check_op("where", INS(DT(KILN_BOOL, 0, 2, 1, 1, 9, 9), F32(2, 3, 9, 9), F32(1)), NO_ATTRS, 0);
  check_op("add", INS(F32(3, 2000), F32(3, 1)), NO_ATTRS, 0);
}

static void test_pointwise_integers(void **state) {
  (void)state;
  static const char *const names[] = {"add", "sub", "mul", "floor_div", "trunc_div",  "remainder",
                                      "eq",  "lt",  "ge",  "maximum",   "bitwise_and"};
  static const kiln_dtype dtypes[] = {KILN_I64, KILN_I32, KILN_U8, KILN_I8, KILN_I16};
  for (size_t i = 0; i < KILN_COUNT(names); ++i) {
    for (size_t k = 0; k < KILN_COUNT(dtypes); ++k) {
      check_op(names[i], INS(DT(dtypes[k], 1, 120, 3, 41), DT(dtypes[k], 1, 120, 41)), NO_ATTRS, 0);
    }
  }
  check_op("where", INS(DT(KILN_BOOL, 0, 2, 50), DT(KILN_I64, -9, 9, 50), DT(KILN_I64, -9, 9, 1)), NO_ATTRS, 0);
  check_op("logical_not", INS(DT(KILN_BOOL, 0, 2, 50)), NO_ATTRS, 0);
  check_op("bitwise_or", INS(DT(KILN_BOOL, 0, 2, 50), DT(KILN_BOOL, 0, 2, 50)), NO_ATTRS, 0);
  static const kiln_dtype all[] = {KILN_F32, KILN_F16, KILN_BF16, KILN_I8,  KILN_U8,
                                   KILN_I16, KILN_I32, KILN_I64,  KILN_BOOL};
  for (size_t i = 0; i < KILN_COUNT(all); ++i) {
    for (size_t k = 0; k < KILN_COUNT(all); ++k) {
      check_op("cast", INS(DT(all[i], 0, 100, 7, 11)), ATTRS(A_DTYPE("dtype", all[k])), 0);
    }
  }
}

/* gelu(x * s + b[channel]) with a comparison and integers mixed in: one program with both kinds of registers. */
static void test_pointwise_chain(void **state) {
  (void)state;
  check_case c = {0};
  const check_in in[] = {F32(4, 50, 24), F32(24), F32(1), DT(KILN_I64, -5, 5, 4, 50, 1)};
  value *inputs[4], *params[4];
  assert_int_equal(graph_create(&c.g), KILN_OK);
  for (int i = 0; i < 4; ++i) inputs[i] = check_input(&c, i, &in[i]);
  builder b = builder_at_end(&c.g->body);
  block *body = graph_new_block(c.g, NULL);
  for (int i = 0; i < 4; ++i) params[i] = graph_add_param(body, NULL, &inputs[i]->type);
  builder in_body = builder_at_end(body);
  value *t = build(&in_body, "mul", IN(params[0], params[2]), NO_ATTRS);
  t = build(&in_body, "gelu", IN(build(&in_body, "add", IN(t, params[1]), NO_ATTRS)), NO_ATTRS);
  value *keep = build(&in_body, "gt", IN(params[3], graph_scalar_int(c.g, KILN_I64, 0)), NO_ATTRS);
  value *positive = build(&in_body, "gt", IN(params[0], graph_scalar(c.g, KILN_F32, 0.0)), NO_ATTRS);
  keep = build(&in_body, "logical_or", IN(keep, positive), NO_ATTRS);
  t = build(&in_body, "where", IN(keep, t, graph_scalar(c.g, KILN_F32, -7.0)), NO_ATTRS);
  t = build(&in_body, "add", IN(t, build(&in_body, "cast", IN(params[3]), ATTRS(A_DTYPE("dtype", KILN_F32)))),
            NO_ATTRS);
  assert_int_equal(graph_check(c.g), KILN_OK);
  block_set_results(body, 1, &t);
  node *n = build_node(&b, "neg", IN(inputs[0]), NO_ATTRS); /* becomes the fused node */
  assert_non_null(n);
  n->op = op_find("pointwise");
  n->attrs = NULL;
  for (int i = 1; i < 4; ++i) node_add_input(n, inputs[i]);
  n->own_inputs = n->n_inputs;
  n->blocks = ARENA_ARRAY(&c.g->arena, block *, 1);
  n->blocks[0] = body;
  n->n_blocks = 1;
  body->owner = n;
  check_finish(&c, n, in, 4, 4e-6);
  check_kernels(&c, 1);
  check_free(&c);
}

static void test_softmax(void **state) {
  (void)state;
  const int64_t sizes[] = {1, 7, 16, 33, 197, 5003};
  for (size_t i = 0; i < KILN_COUNT(sizes); ++i) {
    check_in in = F32(5, 0);
    in.shape[1] = sizes[i];
    check_op("softmax", INS(in), ATTRS(A_INT("axis", 1)), 2e-6);
    check_op("log_softmax", INS(in), ATTRS(A_INT("axis", 1)), 4e-6);
  }
  check_op("softmax", INS(F32(3, 11, 37)), ATTRS(A_INT("axis", 1)), 2e-6);
  check_op("log_softmax", INS(F32(3, 11, 5)), ATTRS(A_INT("axis", 0)), 4e-6);
  check_op("softmax", INS(F32(0, 4)), ATTRS(A_INT("axis", 1)), 0);
  check_op("softmax", INS(F32_SPECIAL(40, 9)), ATTRS(A_INT("axis", 1)), 2e-6);
  check_op("log_softmax", INS(F32_SPECIAL(40, 9)), ATTRS(A_INT("axis", 0)), 4e-6);
}

static void test_norms(void **state) {
  (void)state;
  const int64_t sizes[] = {1, 5, 16, 31, 384, 5003};
  for (size_t i = 0; i < KILN_COUNT(sizes); ++i) {
    check_in x = F32(3, 4, 0), w = F32(0);
    x.shape[2] = w.shape[0] = sizes[i];
    const double tolerance = sizes[i] == 1 ? 1e-3 : 4e-6;
    check_op("layer_norm", INS(x, w, w), ATTRS(A_INT("dims", 1), A_FLOAT("eps", 1e-5)), tolerance);
    check_op("rms_norm", INS(x, w), ATTRS(A_INT("dims", 1), A_FLOAT("eps", 1e-6)), 4e-6);
  }
  check_op("layer_norm", INS(F32(3, 4, 9), NONE, NONE), ATTRS(A_INT("dims", 2), A_FLOAT("eps", 1e-5)), 4e-6);
  check_op("layer_norm", INS(F32_SPECIAL(9, 40), NONE, NONE), ATTRS(A_INT("dims", 1), A_FLOAT("eps", 1e-5)), 4e-6);
  for (int last = 0; last < 2; ++last) {
    check_in x = F32(2, 12, 9, 7), v = F32(12), positive = F32_POSITIVE(12);
    if (last) x = (check_in)F32(2, 9, 7, 12);
    check_op("batch_norm", INS(x, v, positive, v, v), ATTRS(A_FLOAT("eps", 1e-5), A_BOOL("channels_last", last)), 2e-5);
    const int64_t groups[] = {1, 3, 12};
    for (int i = 0; i < 3; ++i) {
      check_op("group_norm", INS(x, v, v),
               ATTRS(A_INT("groups", groups[i]), A_FLOAT("eps", 1e-5), A_BOOL("channels_last", last)), 6e-6);
    }
    check_in big = F32(1, 20, 700);
    if (last) big = (check_in)F32(1, 700, 20);
    check_op("group_norm", INS(big, NONE, NONE),
             ATTRS(A_INT("groups", 5), A_FLOAT("eps", 1e-5), A_BOOL("channels_last", last)), 6e-6);
  }
}

static void test_copies(void **state) {
  (void)state;
  static const kiln_dtype dtypes[] = {KILN_F32, KILN_F16, KILN_BOOL, KILN_I64};
  for (size_t i = 0; i < KILN_COUNT(dtypes); ++i) {
    check_op("contiguous", INS(DT(dtypes[i], 0, 100, 3, 37, 21)), NO_ATTRS, 0);
    check_op("contiguous", INS(DT(dtypes[i], 0, 100, 2, 16, 3, 40)), NO_ATTRS, 0);
    const int64_t orders[][4] = {{0, 2, 3, 1}, {0, 3, 1, 2}, {3, 2, 1, 0}, {1, 0, 2, 3}, {0, 2, 1, 3}};
    for (size_t k = 0; k < KILN_COUNT(orders); ++k) {
      check_op("permute", INS(DT(dtypes[i], 0, 100, 2, 24, 17, 9)), ATTRS(A_INTS("order", orders[k], 4)), 0);
    }
    for (int64_t c = 1; c <= 5; ++c) { /* pixels of few channels */
      check_op("permute", INS(DT(dtypes[i], 0, 100, 2, c, 37, 29)), ATTRS(A_INTS("order", orders[0], 4)), 0);
      check_op("permute", INS(DT(dtypes[i], 0, 100, 2, 37, 29, c)), ATTRS(A_INTS("order", orders[1], 4)), 0);
    }
    check_op("concat", INS(DT(dtypes[i], 0, 9, 2, 3, 5), DT(dtypes[i], 0, 9, 2, 0, 5), DT(dtypes[i], 0, 9, 2, 40, 5)),
             ATTRS(A_INT("axis", 1)), 0);
    const int64_t before[] = {0, 1, -1}, after[] = {2, 0, 3};
    check_op("pad", INS(DT(dtypes[i], 0, 9, 2, 3, 5)),
             ATTRS(A_INTS("before", before, 3), A_INTS("after", after, 3), A_FLOAT("value", 1.0)), 0);
  }
  const int64_t repeats[] = {2, 1, 3}, axes[] = {0, 2}, shifts[] = {-4, 9}, shape[] = {6, 35};
  check_op("tile", INS(F32(3, 4, 5)), ATTRS(A_INTS("repeats", repeats, 3)), 0);
  check_op("flip", INS(F32(3, 4, 50)), ATTRS(A_INTS("axes", axes, 2)), 0);
  check_op("roll", INS(F32(8, 4, 7)), ATTRS(A_INTS("shifts", shifts, 2), A_INTS("axes", axes, 2)), 0);
  check_op("reshape", INS(F32(2, 3, 5, 7)), ATTRS(A_INTS("shape", shape, 2)), 0);
  check_op("slice", INS(F32(5, 9, 4)), ATTRS(A_INT("axis", 1), A_INT("start", 1), A_INT("end", 8), A_INT("step", 3)),
           0);
  for (int64_t d = -3; d <= 3; ++d) {
    check_op("tril", INS(F32(2, 5, 4)), ATTRS(A_INT("diagonal", d)), 0);
    check_op("triu", INS(DT(KILN_I64, 1, 9, 3, 6)), ATTRS(A_INT("diagonal", d)), 0);
  }
}

static void check_attention(int64_t b, int64_t h, int64_t hkv, int64_t l, int64_t s, int64_t e, int64_t ev, int mask,
                            bool causal) {
  check_in q = F32(b, h, l, e), k = F32(b, hkv, s, e), v = F32(b, hkv, s, ev), m = NONE;
  if (mask == 1) m = (check_in)DT(KILN_BOOL, 0, 2, b, 1, l, s);
  if (mask == 2) m = (check_in)F32(h, l, s);
  if (mask == 3) m = (check_in)DT(KILN_BOOL, 0, 2, b, 1, 1, s);
  check_op("attention", INS(q, k, v, m), ATTRS(A_FLOAT("scale", 0.125), A_BOOL("causal", causal)), 4e-6);
}

static void test_attention(void **state) {
  (void)state;
  check_attention(1, 2, 2, 5, 5, 8, 8, 0, false);
  check_attention(2, 3, 3, 49, 49, 32, 32, 2, false);
  check_attention(1, 2, 2, 197, 197, 64, 64, 0, false);
  check_attention(1, 2, 1, 60, 300, 40, 24, 1, false);
  check_attention(1, 2, 2, 130, 130, 64, 64, 0, true);
  check_attention(1, 4, 2, 33, 470, 16, 17, 3, true);
  check_attention(2, 4, 2, 1, 77, 64, 64, 3, false);
  check_attention(1, 4, 4, 1, 50, 80, 65, 0, true);
  check_attention(1, 1, 1, 3, 9, 1, 1, 2, true);
  check_attention(1, 1, 1, 2, 9, 5, 130, 1, false);
  check_attention(1, 2, 2, 40, 40, 256, 256, 0, true);
  check_attention(1, 2, 2, 0, 4, 8, 8, 0, false);
  check_attention(1, 2, 2, 4, 0, 8, 8, 0, false);
}

static void test_reductions(void **state) {
  (void)state;
  static const char *const names[] = {"sum", "mean", "amax", "amin", "var", "prod", "norm"};
  const int64_t sets[][3] = {{0, 1, 2}, {2, 0, 0}, {0, 0, 0}, {1, 0, 0}, {0, 2, 0}, {1, 2, 0}};
  const int counts[] = {3, 1, 1, 1, 2, 2};
  for (size_t i = 0; i < KILN_COUNT(names); ++i) {
    for (size_t k = 0; k < KILN_COUNT(counts); ++k) {
      const named_attr attrs[] = {A_INTS("axes", sets[k], counts[k]), A_BOOL("keepdim", k & 1)};
      check_op(names[i], INS(F32(5, 7, 67)), 2, attrs, 4e-6);
      check_op(names[i], INS(F32(2, 300, 129)), 2, attrs, i == 5 ? 1e-4 : 2e-5);
      if (i == 2 || i == 3) check_op(names[i], INS(F32_SPECIAL(6, 4, 5)), 2, attrs, 0);
      if (i < 4 && i != 1) check_op(names[i], INS(DT(KILN_I64, -50, 50, 3, 4, 17)), 2, attrs, 0);
    }
  }
  for (int64_t axis = 0; axis < 3; ++axis) {
    static const char *const places[] = {"argmax", "argmin", "max_index", "min_index"};
    for (size_t i = 0; i < KILN_COUNT(places); ++i) {
      check_op(places[i], INS(F32(3, 5, 200)), ATTRS(A_INT("axis", axis)), 0);
      check_op(places[i], INS(DT(KILN_F32, 0, 4, 3, 70, 200)), ATTRS(A_INT("axis", axis)), 0);
      check_op(places[i], INS(F32_SPECIAL(3, 5, 90)), ATTRS(A_INT("axis", axis), A_BOOL("keepdim", 1)), 0);
      check_op(places[i], INS(DT(KILN_I32, -3, 3, 3, 5, 9)), ATTRS(A_INT("axis", axis)), 0);
    }
    check_op("any", INS(DT(KILN_BOOL, 0, 2, 3, 5, 9)), ATTRS(A_INTS("axes", &axis, 1)), 0);
    check_op("all", INS(DT(KILN_F32, 0, 3, 3, 2, 2)), ATTRS(A_INTS("axes", &axis, 1)), 0);
  }
}

static void test_pools(void **state) {
  (void)state;
  for (int last = 0; last < 2; ++last) {
    for (int wide = 0; wide < 2; ++wide) {
      const int64_t c = wide ? 80 : 5;
      check_in x = F32_SPECIAL(2, c, 13, 11);
      if (last) x = (check_in)F32_SPECIAL(2, 13, 11, c);
      const int64_t window[] = {3, 2}, stride[] = {2, 1}, pad[] = {1, 1}, dilation[] = {1, 2}, size[] = {4, 3},
                    one[] = {1, 1};
      for (int ceil_mode = 0; ceil_mode < 2; ++ceil_mode) {
        check_op("max_pool", INS(x),
                 ATTRS(A_INTS("kernel", window, 2), A_INTS("stride", stride, 2), A_INTS("pad", pad, 2),
                       A_INTS("dilation", dilation, 2), A_BOOL("ceil", ceil_mode), A_BOOL("channels_last", last)),
                 0);
        for (int include = 0; include < 2; ++include) {
          x.fill = FILL_NORMAL;
          check_op(
              "avg_pool", INS(x),
              ATTRS(A_INTS("kernel", window, 2), A_INTS("stride", stride, 2), A_INTS("pad", pad, 2),
                    A_BOOL("ceil", ceil_mode), A_BOOL("count_include_pad", include), A_BOOL("channels_last", last)),
              2e-6);
        }
      }
      check_op("adaptive_avg_pool", INS(x), ATTRS(A_INTS("size", size, 2), A_BOOL("channels_last", last)), 2e-6);
      check_op("adaptive_avg_pool", INS(x), ATTRS(A_INTS("size", one, 2), A_BOOL("channels_last", last)), 2e-6);
    }
    const int64_t three[] = {3, 3, 3}, two[] = {2, 2, 2}, zero[] = {0, 0, 0}, one[] = {1, 1, 1};
    check_in line = F32(2, 6, 20), cube = F32(1, 6, 5, 6, 7);
    check_op("max_pool", INS(line),
             ATTRS(A_INTS("kernel", three, 1), A_INTS("stride", two, 1), A_INTS("pad", one, 1),
                   A_INTS("dilation", one, 1), A_BOOL("channels_last", last)),
             0);
    check_op("avg_pool", INS(cube),
             ATTRS(A_INTS("kernel", three, 3), A_INTS("stride", two, 3), A_INTS("pad", zero, 3),
                   A_BOOL("channels_last", last)),
             2e-6);
  }
}

static void test_resize(void **state) {
  (void)state;
  static const char *const modes[] = {"nearest", "nearest_exact", "linear", "cubic"};
  const int64_t sizes[][2] = {{14, 9}, {7, 5}, {3, 2}, {1, 30}};
  const double scales[] = {0, 0}, given[] = {2.0, 1.7};
  for (int last = 0; last < 2; ++last) {
    for (size_t m = 0; m < KILN_COUNT(modes); ++m) {
      for (size_t i = 0; i < KILN_COUNT(sizes); ++i) {
        for (int align = 0; align < (m < 2 ? 1 : 2); ++align) {
          check_in x = F32(2, 19, 7, 5);
          if (last) x = (check_in)F32(2, 7, 5, 19);
          check_op("resize", INS(x),
                   ATTRS(A_INTS("size", sizes[i], 2), A_STR("mode", modes[m]), A_BOOL("align_corners", align),
                         A_FLOATS("scales", i == 0 ? given : scales, 2), A_BOOL("channels_last", last)),
                   4e-6);
        }
      }
      const int64_t long_size[] = {33};
      check_op("resize", INS(F32(2, 3, 10)),
               ATTRS(A_INTS("size", long_size, 1), A_STR("mode", modes[m]), A_FLOATS("scales", scales, 1),
                     A_BOOL("channels_last", 0)),
               4e-6);
    }
  }
}

static void test_indexing(void **state) {
  (void)state;
  static const kiln_dtype dtypes[] = {KILN_F32, KILN_F16, KILN_BOOL, KILN_I64};
  const int64_t zero[] = {0}, zero_one[] = {0, 1}, one_two[] = {1, 2}, apart[] = {0, 2};
  for (size_t i = 0; i < KILN_COUNT(dtypes); ++i) {
    const kiln_dtype d = dtypes[i];
    check_op("embedding", INS(DT(d, 0, 90, 30, 17), DT(KILN_I64, 0, 30, 4, 9)), NO_ATTRS, 0);
    check_op("embedding", INS(DT(d, 0, 90, 30, 64), DT(KILN_I32, 0, 30, 700)), NO_ATTRS, 0);
    for (int64_t axis = 0; axis < 3; ++axis) {
      check_op("index_select", INS(DT(d, 0, 90, 4, 5, 6), DT(KILN_I64, 0, 4, 7)), ATTRS(A_INT("axis", axis)), 0);
      check_op("gather", INS(DT(d, 0, 90, 4, 5, 6), DT(KILN_I64, 0, 4, 3, 4, 5)), ATTRS(A_INT("axis", axis)), 0);
      check_op("scatter", INS(DT(d, 0, 90, 4, 5, 6), DT(KILN_I64, 0, 4, 3, 4, 5), DT(d, 0, 90, 3, 4, 5)),
               ATTRS(A_INT("axis", axis)), 0);
      check_op("slice_scatter",
               INS(DT(d, 0, 90, 9, 9, 9), DT(d, 0, 90, axis == 0 ? 3 : 9, axis == 1 ? 3 : 9, axis == 2 ? 3 : 9)),
               ATTRS(A_INT("axis", axis), A_INT("start", 2), A_INT("end", 8), A_INT("step", 2)), 0);
    }
    check_op("index", INS(DT(d, 0, 90, 9, 7), DT(KILN_I64, -9, 9, 2, 5)), ATTRS(A_INTS("axes", zero, 1)), 0);
    check_op("index", INS(DT(d, 0, 90, 9, 7, 3), DT(KILN_I64, -7, 7, 5, 1), DT(KILN_I64, -7, 7, 4)),
             ATTRS(A_INTS("axes", zero_one, 2)), 0);
    check_op("index", INS(DT(d, 0, 90, 2, 9, 7, 3), DT(KILN_I64, -7, 7, 5), DT(KILN_I64, -7, 7, 5)),
             ATTRS(A_INTS("axes", one_two, 2)), 0);
    check_op("index", INS(DT(d, 0, 90, 3, 2, 4, 5), DT(KILN_I64, -3, 3, 6), DT(KILN_I64, -3, 3, 1)),
             ATTRS(A_INTS("axes", apart, 2)), 0);
    check_op("index_put", INS(DT(d, 0, 90, 3, 2, 4), DT(d, 0, 90, 4), DT(KILN_I64, -3, 3, 6)),
             ATTRS(A_INTS("axes", zero, 1)), 0);
  }
  check_op("index_put", INS(F32(3, 2, 4), F32(6, 1, 4), DT(KILN_I64, -3, 3, 6)),
           ATTRS(A_INTS("axes", zero, 1), A_BOOL("accumulate", 1)), 4e-6);
  check_op("scatter", INS(F32(3, 50), DT(KILN_I64, 0, 3, 9, 50), F32(9, 50)),
           ATTRS(A_INT("axis", 0), A_STR("reduce", "add")), 4e-6);
}

/* An index out of range is an error, not a read. */
static void test_bad_index(void **state) {
  (void)state;
  check_case c = {0};
  const check_in in[] = {F32(30, 17), DT(KILN_I64, 0, 30, 4)};
  value *inputs[2];
  assert_int_equal(graph_create(&c.g), KILN_OK);
  for (int i = 0; i < 2; ++i) inputs[i] = check_input(&c, i, &in[i]);
  builder b = builder_at_end(&c.g->body);
  check_finish(&c, build_node(&b, "embedding", 2, inputs, NO_ATTRS), in, 2, 0);
  const int64_t bad[] = {-1, 30, INT64_MIN, INT64_MAX};
  for (size_t i = 0; i < KILN_COUNT(bad); ++i) {
    ((int64_t *)c.in[1].data)[2] = bad[i];
    const kernel *k = kernel_find("embedding", "embedding.copy");
    assert_non_null(k);
    assert_int_equal(check_run(&c, k, 1, 0, false, false), KILN_INVALID_ARGUMENT);
  }
  check_free(&c);
}

static void test_sorts(void **state) {
  (void)state;
  for (int64_t axis = 0; axis < 2; ++axis) {
    for (int down = 0; down < 2; ++down) {
      check_op("sort", INS(F32_SPECIAL(20, 33)), ATTRS(A_INT("axis", axis), A_BOOL("descending", down)), 0);
      check_op("sort", INS(DT(KILN_I64, -5, 5, 20, 33)), ATTRS(A_INT("axis", axis), A_BOOL("descending", down)), 0);
      check_op("topk", INS(F32_SPECIAL(20, 33)), ATTRS(A_INT("k", 7), A_INT("axis", axis), A_BOOL("largest", down)), 0);
      check_op("topk", INS(DT(KILN_I32, -5, 5, 200, 300)),
               ATTRS(A_INT("k", 150), A_INT("axis", axis), A_BOOL("largest", down)), 0);
    }
    check_op("cumsum", INS(F32(20, 33)), ATTRS(A_INT("axis", axis)), 4e-6);
    check_op("cumsum", INS(DT(KILN_I64, -5, 5, 20, 33)), ATTRS(A_INT("axis", axis)), 0);
  }
  check_op("arange", 0, NULL,
           ATTRS(A_FLOAT("start", -3.0), A_FLOAT("step", 0.5), A_INT("count", 41), A_DTYPE("dtype", KILN_F32)), 0);
  check_op("arange", 0, NULL,
           ATTRS(A_FLOAT("start", 5.0), A_FLOAT("step", 3.0), A_INT("count", 41), A_DTYPE("dtype", KILN_I64)), 0);
}

int main(void) {
  if (ops_init() != KILN_OK) return fprintf(stderr, "%s\n", error_text()), 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_pointwise_all_rows),
      cmocka_unit_test(test_pointwise_special_values),
      cmocka_unit_test(test_pointwise_broadcast),
      cmocka_unit_test(test_pointwise_integers),
      cmocka_unit_test(test_pointwise_chain),
      cmocka_unit_test(test_softmax),
      cmocka_unit_test(test_norms),
      cmocka_unit_test(test_copies),
      cmocka_unit_test(test_attention),
      cmocka_unit_test(test_reductions),
      cmocka_unit_test(test_pools),
      cmocka_unit_test(test_resize),
      cmocka_unit_test(test_indexing),
      cmocka_unit_test(test_bad_index),
      cmocka_unit_test(test_sorts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
