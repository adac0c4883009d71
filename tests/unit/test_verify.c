/* The verifier finds what passes and hostile files may break: each test breaks one thing in a good graph. */
#include "expect.h"
#include "graph/graph.h"
#include "ops/op.h"

static const char good[] =
    "kiln.graph 1\ndim s in [1, 8] opt 4\nconst %w : f32[3,3] = {1, 2, 3, 4, 5, 6, 7, 8, 9}\nconst %z : f32[3] = {0, "
    "0, 0}\n"
    "input \"x\" %x : f32[s,3]\ninput \"f\" %f : bool[]\nstate \"n\" %n : f32[3] = %z\n"
    "%a = relu(%x) : f32[s,3]\n%b = linear(%a, %w, none) : f32[s,3]\n  epilogue(%r : f32[s,3], %o : f32[s,3] = %x) {\n"
    "    %q = add(%r, %o) : f32[s,3]\n    return %q\n  }\n"
    "%c = if(%f, %b) : f32[s,3]\n  block(%p : f32[s,3]) {\n    %t = neg(%p) : f32[s,3]\n    return %t\n  }\n"
    "  block(%u : f32[s,3]) {\n    return %u\n  }\n"
    "%d = softmax(%c) {axis=1} : f32[s,3]\n%m = add(%n, %z) : f32[3]\noutput \"y\" %d\nupdate \"n\" %m\n";

static graph *make(void) {
  graph *g = NULL;
  expect_ok(graph_parse(good, strlen(good), NULL, NULL, &g));
  expect_ok(graph_verify(g));
  return g;
}

static node *find(const block *b, const char *op_name) {
  for (node *n = b->first; n; n = n->next) {
    if (str_eq(n->op->name, op_name)) return n;
  }
  return NULL;
}

static void refused(graph *g, const char *part, int line) {
  const kiln_status status = graph_verify(g);
  if (status == KILN_OK) fail_msg("line %d: a broken graph was accepted", line);
  if (!strstr(error_text(), part)) fail_msg("line %d: `%s` should contain `%s`", line, error_text(), part);
  graph_destroy(g);
}
#define REFUSED(g, part) refused((g), (part), __LINE__)

static void order_and_scope(void **state) {
  (void)state;
  graph *g = make();
  node_move_before(find(&g->body, "softmax"), find(&g->body, "relu"));
  REFUSED(g, "not defined before its use");

  g = make(); /* a value of one branch, used outside */
  node *branch = find(&g->body, "if");
  node_set_input(find(&g->body, "softmax"), 0, branch->blocks[0]->first->outputs[0]);
  REFUSED(g, "not defined before its use");

  g = make(); /* a parameter of one branch, used outside and in the other */
  branch = find(&g->body, "if");
  node_set_input(find(&g->body, "softmax"), 0, branch->blocks[0]->params[0]);
  REFUSED(g, "not defined before its use");

  g = make();
  branch = find(&g->body, "if");
  block_set_results(branch->blocks[1], 1, &branch->blocks[0]->first->outputs[0]);
  REFUSED(g, "is not defined");

  g = make(); /* an epilogue that looks outside */
  node *anchor = find(&g->body, "linear");
  node_set_input(anchor->epilogue->first, 1, g->body.params[0]);
  REFUSED(g, "uses a value from outside");

  g = make(); /* branches may */
  branch = find(&g->body, "if");
  node_set_input(branch->blocks[0]->first, 0, g->body.params[0]);
  expect_ok(graph_verify(g));
  graph_destroy(g);
}

static void operands_and_attributes(void **state) {
  (void)state;
  graph *g = make();
  node_set_input(find(&g->body, "relu"), 0, NULL);
  REFUSED(g, "required operand is missing");

  g = make();
  find(&g->body, "softmax")->attrs[0].kind = ATTR_FLOAT;
  REFUSED(g, "wrong kind");

  g = make();
  find(&g->body, "softmax")->attrs[0].u.i = 5;
  REFUSED(g, "axis");

  g = make();
  find(&g->body, "relu")->own_inputs = 0;
  REFUSED(g, "wrong number of operands");

  g = make(); /* a slot that its value does not know of */
  g->body.params[0]->uses = NULL;
  REFUSED(g, "does not know its user");
}

static void types(void **state) {
  (void)state;
  graph *g = make();
  find(&g->body, "relu")->outputs[0]->type.dtype = KILN_F64;
  REFUSED(g, "");

  g = make();
  find(&g->body, "softmax")->outputs[0]->type.dims[1] = 4;
  REFUSED(g, "not those that its operands give");

  g = make(); /* s or 2: maybe equal, which becomes a check at run time */
  const int32_t guards = g->n_guards;
  find(&g->body, "softmax")->outputs[0]->type.dims[0] = 2;
  expect_ok(graph_verify(g));
  assert_true(g->n_guards > guards);
  assert_int_equal(find(&g->body, "softmax")->outputs[0]->type.dims[0], 2); /* and stays as it was written */
  graph_destroy(g);

  g = make(); /* 9 is not in s's range */
  find(&g->body, "softmax")->outputs[0]->type.dims[0] = 9;
  REFUSED(g, "not those that its operands give");

  g = make();
  find(&g->body, "linear")->epilogue->params[1]->type.dtype = KILN_F16;
  REFUSED(g, "parameters are not like its operands");

  g = make();
  find(&g->body, "if")->blocks[1]->params[0]->type.rank = 1;
  REFUSED(g, "parameters are not like its operands");
}

static void names_numbers_and_links(void **state) {
  (void)state;
  graph *g = make();
  find(&g->body, "softmax")->outputs[0]->id = g->body.params[0]->id;
  REFUSED(g, "two values have number");

  g = make();
  find(&g->body, "softmax")->outputs[0]->name = "x";
  REFUSED(g, "two values are called x");

  g = make();
  find(&g->body, "softmax")->outputs[0]->producer = find(&g->body, "relu");
  REFUSED(g, "does not know its producer");

  g = make();
  node *last = g->body.last;
  g->body.last = last->prev;
  REFUSED(g, "broken");
}

static void frame(void **state) {
  (void)state;
  graph *g = make();
  g->n_outputs++;
  REFUSED(g, "do not add up");

  g = make();
  g->states[0].result = 0;
  REFUSED(g, "does not fit inputs and outputs");

  g = make();
  block_set_results(&g->body, 2, (value *[]){g->body.results[0].v, g->body.results[0].v});
  REFUSED(g, "changes its type");

  g = make();
  block_set_results(find(&g->body, "if")->blocks[0], 0, NULL);
  REFUSED(g, "block 0 has 1 parameters and 0 results");

  g = make();
  find(&g->body, "if")->n_blocks = 1;
  REFUSED(g, "expected 2");
}

static void failed_graphs_stay_failed(void **state) {
  (void)state;
  graph *g = make();
  builder b = builder_at_end(&g->body);
  assert_null(build(&b, "no_such_operator", 0, NULL, NO_ATTRS));
  expect_failure(graph_verify(g), KILN_INTERNAL, "no operator");
  graph_destroy(g);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(order_and_scope), cmocka_unit_test(operands_and_attributes),
      cmocka_unit_test(types),           cmocka_unit_test(names_numbers_and_links),
      cmocka_unit_test(frame),           cmocka_unit_test(failed_graphs_stay_failed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
