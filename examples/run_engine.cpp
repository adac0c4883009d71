// Loads an engine from C++ and runs it in several threads, with nothing but libkiln.
//
//   c++ -std=c++17 run_engine.cpp $(pkg-config --cflags --libs kiln) -pthread -o run_engine_cpp
//   ./run_engine_cpp model.kiln
//
// The C handles fit unique_ptr; errors become exceptions that carry the library's text.
#include <kiln/kiln.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

struct Destroy {
  void operator()(kiln_engine *engine) const { kiln_engine_destroy(engine); }
  void operator()(kiln_context *context) const { kiln_context_destroy(context); }
};
using Engine = std::unique_ptr<kiln_engine, Destroy>;
using Context = std::unique_ptr<kiln_context, Destroy>;

void check(kiln_status status) {
  if (status != KILN_OK) throw std::runtime_error(kiln_last_error());
}

Engine open(const char *path) {
  kiln_engine *engine = nullptr;
  check(kiln_engine_open(path, &engine));
  return Engine(engine);
}

Context make_context(const kiln_engine *engine, int threads) {
  const kiln_context_options options = {sizeof options, threads};
  kiln_context *context = nullptr;
  check(kiln_context_create_with(engine, &options, &context));
  return Context(context);
}

// One caller: its context, its inputs (zeros), one run. Returns the number of output elements.
std::size_t run_once(const kiln_engine *engine) {
  const Context context = make_context(engine, 1);
  const std::size_t n_in = kiln_engine_input_count(engine), n_out = kiln_engine_output_count(engine);
  std::vector<kiln_io_info> infos(n_in);
  std::vector<std::vector<std::uint64_t>> memory(n_in);  // 8-byte aligned for every dtype
  std::vector<kiln_tensor> in(n_in), out(n_out);
  for (std::size_t i = 0; i < n_in; i++) {
    check(kiln_engine_input(engine, i, &infos[i]));
    std::size_t bytes = kiln_dtype_size(infos[i].dtype);
    for (int d = 0; d < infos[i].rank; d++) bytes *= static_cast<std::size_t>(infos[i].opt[d]);
    memory[i].resize(bytes / 8 + 1);
    in[i].data = memory[i].data();
    in[i].device.type = KILN_DEVICE_CPU;
    in[i].ndim = infos[i].rank;
    in[i].shape = infos[i].opt;
    kiln_tensor_set_dtype(&in[i], infos[i].dtype);
  }
  check(kiln_context_run(context.get(), in.data(), n_in, out.data(), n_out));
  std::size_t elements = 0;
  for (const kiln_tensor &t : out) {
    std::size_t n = 1;
    for (int d = 0; d < t.ndim; d++) n *= static_cast<std::size_t>(t.shape[d]);
    elements += n;
  }
  return elements;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s ENGINE\n", argv[0]);
    return 2;
  }
  try {
    const Engine engine = open(argv[1]);
    std::vector<std::thread> threads;
    std::vector<std::size_t> elements(2);
    std::vector<std::exception_ptr> errors(2);
    for (std::size_t i = 0; i < 2; i++) {
      threads.emplace_back([&, i] {
        try {
          elements[i] = run_once(engine.get());
        } catch (...) {
          errors[i] = std::current_exception();
        }
      });
    }
    for (std::thread &thread : threads) thread.join();
    for (const std::exception_ptr &error : errors) {
      if (error) std::rethrow_exception(error);
    }
    std::printf("%s: two threads, %zu output elements each\n", kiln_engine_target(engine.get()), elements[0]);
    return elements[0] == elements[1] ? 0 : 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
