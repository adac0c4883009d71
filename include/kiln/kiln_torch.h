/* kiln_torch.h - Kiln's operators for PyTorch, in libkiln_torch.so.
 *
 * TorchScript modules that kiln.compile made call the operators kiln::load and kiln::execute, so a program that loads
 * such a module with torch::jit::load has to register them first. Two ways:
 *   - load the library after libtorch: dlopen("libkiln_torch.so", RTLD_NOW), or torch.ops.load_library in Python. It
 * registers itself.
 *   - link it, and call kiln_torch_register() at the start of main.
 * The library has no link-time dependency on PyTorch: it looks the stable C ABI of libtorch 2.11 or later up at run
 * time. */
#ifndef KILN_KILN_TORCH_H
#define KILN_KILN_TORCH_H

#include <kiln/kiln.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Registers the operators, if that has not happened yet. NULL: done. Else a text that says why not. [any thread] */
KILN_API const char *kiln_torch_register(void);

/* Frees engines of tensors that kiln::load did not make (constants of frozen modules that were saved and loaded again),
 * which are otherwise kept for the next call, 16 of them. [any thread] */
KILN_PUBLIC void kiln_torch_clear_cache(void);

#ifdef __cplusplus
}
#endif
#endif
