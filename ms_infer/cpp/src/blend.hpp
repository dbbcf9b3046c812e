// From one prompt's embedding to another's over several chunks: blend.py in C++.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace ms_infer {

using Embedding = std::shared_ptr<const std::vector<float>>;  // [tokens, dim], row by row

// How a prompt takes the place of the one before.
struct Blend {
  static constexpr int kMostChunks = 1 << 20;

  int chunks = 1;      // until it is all there: the k-th has the share k / chunks of it
  bool slerp = false;  // every row turns from one to the other and changes its length; else the numbers in between

  // MS_ERROR_CONFIG unless the chunks can be counted.
  void check() const;
  // Embedding of the `chunk`-th chunk, counted from 1; rows have `dim` values.
  Embedding between(const Embedding& old, const Embedding& next, std::size_t dim, int chunk) const;
};

}  // namespace ms_infer
