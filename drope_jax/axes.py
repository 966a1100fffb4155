"""The letters at the end of array names, one for each axis.

  B batch              S query sequence      T key sequence
  H query heads        K key/value heads     G query heads per kv head (H / K)
  D head dim           F rotary pairs (D/2)  M model width
  I MLP width          N layers              V vocabulary
  R rank of adapters   P rows of a table of positions

An axis of length 1 is written `1`. When the shape changes, the name changes.
Keys of the parameter tree have no suffix: they are an on-disk format.
"""

import jax

Array = jax.Array
