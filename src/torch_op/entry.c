/* What libkiln_torch.so adds to the operators: it registers them when it is loaded, if PyTorch is there already. */
#include <kiln/kiln_torch.h>

__attribute__((constructor)) static void register_at_load(void) {
  const char *failure = kiln_torch_register();
  (void)failure; /* a program that linked this library calls kiln_torch_register itself and gets the text */
}
