// Arrays in numpy's .npy format, from memory and back; little-endian numbers in C order.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "files/tensors.hpp"

namespace ms_infer {

struct NpyArray {
  std::string kind;  // "<f4", "|b1", ...
  Shape shape;
  std::span<const unsigned char> data;

  std::size_t count() const;
  // All values as float64; int64 beyond 2^53 loses digits.
  std::vector<double> numbers() const;
  // All values of an array of whole numbers.
  std::vector<std::int64_t> integers() const;
};

// MS_ERROR_CONFIG for what is no such array: another order, objects, cut off. The array points into `file`.
NpyArray read_npy(std::span<const unsigned char> file);

// A whole file.
Bytes npy_bytes(const std::string& kind, const Shape& shape, std::span<const unsigned char> data);

}  // namespace ms_infer
