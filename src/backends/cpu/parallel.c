/* Work splitting: as many tasks as keep every thread busy even if one is slow, but none smaller than CPU_TASK_COST. */
#include "backends/cpu/parallel.h"

typedef struct cpu_ranges {
  cpu_range_fn fn;
  void *user;
  int64_t units, tasks;
} cpu_ranges;

static void cpu_run_range(void *user, int64_t task, int worker) {
  const cpu_ranges *r = user;
  int64_t begin, end;
  range_split(r->units, r->tasks, 1, task, &begin, &end);
  if (begin < end) r->fn(r->user, begin, end, worker);
}

void cpu_parallel(pool *p, int64_t units, int64_t unit_cost, cpu_range_fn fn, void *user) {
  if (units <= 0) return;
  const int64_t threads = pool_threads(p), cost = unit_cost < 1 ? 1 : unit_cost;
  int64_t units_per_task = CPU_TASK_COST / cost;
  if (units_per_task < 1) units_per_task = 1;
  int64_t tasks = units / units_per_task;
  if (tasks > 4 * threads) tasks = 4 * threads;
  if (tasks > units) tasks = units;
  if (threads <= 1 || tasks <= 1) {
    fn(user, 0, units, 0);
    return;
  }
  cpu_ranges r = {fn, user, units, tasks};
  pool_run(p, tasks, cpu_run_range, &r);
}
