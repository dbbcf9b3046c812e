// Names, shapes and types of tensors, and the safetensors format of snapshots.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "files/files.hpp"

namespace ms_infer {

using Shape = std::vector<std::int64_t>;

enum class Dtype { float32, float16, bfloat16, boolean, int64, uint8, uint16, float64 };

// Who fills a tensor and how long it lives; bundle/stages.py says what each means.
enum class Role { host, pass, state, cache, device };

std::size_t item_bytes(Dtype dtype);
Dtype dtype_of(const std::string& name);     // "float32", ...; MS_ERROR_BUNDLE for others
Role role_of(const std::string& name);       // "host", ...; MS_ERROR_BUNDLE for others
std::string shape_text(const Shape& shape);  // "[1, 3]"
std::size_t element_count(const Shape& shape);

// One input or output of a stage.
struct TensorSpec {
  std::string name;
  Shape shape;
  Dtype dtype = Dtype::float32;
  Role role = Role::host;

  std::size_t elements() const { return element_count(shape); }
  std::size_t bytes() const { return elements() * item_bytes(dtype); }
};

// A tensor in host memory that somebody else owns.
struct TensorView {
  Dtype dtype = Dtype::float32;
  Shape shape;
  std::span<const unsigned char> data;
};

// A tensor in host memory of its own.
struct HostTensor {
  Dtype dtype = Dtype::float32;
  Shape shape;
  Bytes data;

  TensorView view() const { return {dtype, shape, data}; }
};

using Metadata = std::map<std::string, std::string>;

Bytes safetensors_of(const std::map<std::string, TensorView>& tensors, const Metadata& metadata);
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const Metadata& metadata);

// A whole safetensors document; its views live as long as the object. MS_ERROR_CONFIG for anything else.
class Safetensors {
 public:
  explicit Safetensors(const std::filesystem::path& path);
  // `name`: what an error calls it.
  Safetensors(Bytes document, const std::string& name);

  const Metadata& metadata() const { return metadata_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  // The tensor of this name, type and shape; an empty shape fits any.
  const TensorView& at(const std::string& name, Dtype dtype, const Shape& shape = {}) const;

 private:
  Bytes file_;
  Metadata metadata_;
  std::map<std::string, TensorView> tensors_;
};

}  // namespace ms_infer
