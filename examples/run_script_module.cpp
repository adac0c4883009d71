// A C++ program with libtorch that runs a TorchScript module compiled by Kiln. No Python, and Kiln is not linked:
//
//   run_script_module MODULE.ts LIBKILN_TORCH.so SIZE...
//
// The module is called with one float tensor of ones of the sizes, from two threads at once. In Python, the module came
// from
//   torch.jit.save(kiln.compile(torch.jit.script(model), inputs=[x]), "MODULE.ts")
#include <dlfcn.h>
#include <torch/script.h>

#include <cstdlib>
#include <iostream>
#include <thread>
#include <vector>

int main(int argc, char **argv) {
  if (argc < 3) {
    std::cerr << "usage: " << argv[0] << " MODULE.ts LIBKILN_TORCH.so SIZE...\n";
    return 2;
  }
  // Registers the operators with the libtorch of this process, so it must come after libtorch.
  if (dlopen(argv[2], RTLD_NOW) == nullptr) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  std::vector<int64_t> sizes;
  for (int i = 3; i < argc; i++) sizes.push_back(std::strtoll(argv[i], nullptr, 10));
  try {
    torch::InferenceMode guard;
    torch::jit::Module module = torch::jit::load(argv[1]);
    const torch::Tensor input = torch::ones(sizes);
    torch::Tensor results[2];
    std::string failures[2];
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; i++) {
      threads.emplace_back([&, i] {
        torch::InferenceMode inference;  // of this thread
        try {
          results[i] = module.forward({input}).toTensor();
        } catch (const std::exception &error) {
          failures[i] = error.what();
        }
      });
    }
    for (std::thread &thread : threads) thread.join();
    for (const std::string &failure : failures) {
      if (!failure.empty()) throw std::runtime_error(failure);
    }
    std::cout << "output " << results[0].sizes() << ", same from both threads: " << std::boolalpha
              << torch::equal(results[0], results[1]) << "\nmean " << results[0].mean().item<double>() << "\n";
  } catch (const std::exception &error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
