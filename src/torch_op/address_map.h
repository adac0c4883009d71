/* Addresses to values, read without a lock. Readers may only ask for an address that is in the map while they ask
 * (here: they hold the tensor that lives there). Writers take a lock of their own. Old tables stay until the process
 * ends, since a reader may still look at them: each is half as large as the next one. */
#ifndef KILN_TORCH_OP_ADDRESS_MAP_H
#define KILN_TORCH_OP_ADDRESS_MAP_H

#include <stdbool.h>

void *address_map_find(const void *key);            /* NULL: not there */
bool address_map_add(const void *key, void *value); /* false: out of memory */
void address_map_remove(const void *key);

#endif
