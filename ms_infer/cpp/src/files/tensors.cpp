#include "files/tensors.hpp"

#include <array>
#include <cstring>

#include "files/json.hpp"

namespace ms_infer {

namespace {

struct DtypeNames {
  Dtype dtype;
  const char* numpy;
  const char* safetensors;
  std::size_t bytes;
};

constexpr std::array<DtypeNames, 8> kDtypes{{{Dtype::float32, "float32", "F32", 4},
                                             {Dtype::float16, "float16", "F16", 2},
                                             {Dtype::bfloat16, "bfloat16", "BF16", 2},
                                             {Dtype::boolean, "bool", "BOOL", 1},
                                             {Dtype::int64, "int64", "I64", 8},
                                             {Dtype::uint8, "uint8", "U8", 1},
                                             {Dtype::uint16, "uint16", "U16", 2},
                                             {Dtype::float64, "float64", "F64", 8}}};
constexpr std::size_t kMaxSnapshot = std::size_t{1} << 36;
constexpr std::uint64_t kMaxHeader = std::uint64_t{100} << 20;  // as the safetensors library has it

const DtypeNames& names(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)]; }

void append_json_string(std::string& out, const std::string& text) { out += Json(text).sorted_text(); }

std::string header_text(const std::map<std::string, TensorView>& tensors, const Metadata& metadata) {
  std::string header = "{\"__metadata__\":{";
  const char* comma = "";
  for (const auto& [name, value] : metadata) {
    header += comma, comma = ",";
    append_json_string(header, name), header += ':', append_json_string(header, value);
  }
  header += '}';
  std::size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    header += ',', append_json_string(header, name);
    header += std::string(":{\"dtype\":\"") + names(tensor.dtype).safetensors + "\",\"shape\":" +
              shape_text(tensor.shape) + ",\"data_offsets\":[" + std::to_string(offset) + ',';
    offset += tensor.data.size();
    header += std::to_string(offset) + "]}";
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

std::string_view chars(std::span<const unsigned char> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TensorView read_entry(const Json& entry, std::span<const unsigned char> data) {
  TensorView view;
  const auto& kind = entry.at("dtype").string();
  std::size_t known = 0;
  while (known < kDtypes.size() && kind != kDtypes[known].safetensors) ++known;
  require(known < kDtypes.size(), MS_ERROR_BUNDLE, "a tensor has the type ", kind);
  view.dtype = kDtypes[known].dtype;
  for (const auto& length : entry.at("shape").array()) view.shape.push_back(length.integer());
  const auto& offsets = entry.at("data_offsets").array();
  require(offsets.size() == 2, MS_ERROR_BUNDLE, "a tensor has no two offsets");
  const auto begin = offsets[0].integer(), end = offsets[1].integer();
  require(begin >= 0 && begin <= end && static_cast<std::uint64_t>(end) <= data.size(), MS_ERROR_BUNDLE,
          "a tensor lies outside of the file");
  view.data = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  require(element_count(view.shape) * item_bytes(view.dtype) == view.data.size(), MS_ERROR_BUNDLE,
          "a tensor's shape and size do not agree");
  return view;
}

}  // namespace

std::size_t item_bytes(Dtype dtype) { return names(dtype).bytes; }

Dtype dtype_of(const std::string& name) {
  for (const auto& known : kDtypes)
    if (name == known.numpy) return known.dtype;
  fail(MS_ERROR_BUNDLE, "the manifest names the type '", name, "', which this version does not know");
}

Role role_of(const std::string& name) {
  constexpr std::array kNames{"host", "pass", "state", "cache", "device"};  // in the order of Role
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return static_cast<Role>(i);
  fail(MS_ERROR_BUNDLE, "the manifest names the role '", name, "'; known: host, pass, state, cache, device");
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::size_t element_count(const Shape& shape) {
  constexpr std::size_t kMost = std::size_t{1} << 40;
  std::size_t count = 1;
  for (const auto length : shape) {
    require(length >= 0 && (length == 0 || count <= kMost / static_cast<std::size_t>(length)), MS_ERROR_BUNDLE,
            "a tensor has the impossible shape ", shape_text(shape));
    count *= static_cast<std::size_t>(length);
  }
  return count;
}

namespace {

// Calls with each part of the document, in order.
template <class Take>
void each_part(const std::map<std::string, TensorView>& tensors, const Metadata& metadata, Take&& take) {
  const std::string header = header_text(tensors, metadata);
  const std::uint64_t length = header.size();  // little-endian: checked in words.cpp
  const std::string first(reinterpret_cast<const char*>(&length), sizeof length);
  std::vector<std::string_view> parts{first, header};
  for (const auto& [name, tensor] : tensors) parts.push_back(chars(tensor.data));
  take(parts);
}

}  // namespace

Bytes safetensors_of(const std::map<std::string, TensorView>& tensors, const Metadata& metadata) {
  Bytes all;
  each_part(tensors, metadata, [&](const auto& parts) {
    for (const std::string_view part : parts) all.insert(all.end(), part.begin(), part.end());
  });
  return all;
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, TensorView>& tensors,
                       const Metadata& metadata) {
  each_part(tensors, metadata, [&](const auto& parts) { write_file(path, parts); });
}

Safetensors::Safetensors(const std::filesystem::path& path)
    : Safetensors(read_file(path, kMaxSnapshot, MS_ERROR_CONFIG), path.string()) {}

Safetensors::Safetensors(Bytes document, const std::string& name) : file_(std::move(document)) {
  try {
    std::uint64_t length = 0;
    require(file_.size() >= sizeof length, MS_ERROR_BUNDLE, "it is too short");
    std::memcpy(&length, file_.data(), sizeof length);
    require(length <= kMaxHeader && length <= file_.size() - sizeof length, MS_ERROR_BUNDLE, "it is cut off");
    const std::span<const unsigned char> all(file_);
    const auto header = Json::parse(chars(all.subspan(sizeof length, length)));
    const auto data = all.subspan(sizeof length + length);
    for (const auto& [key, entry] : header.object()) {
      if (key == "__metadata__") {
        for (const auto& [word, value] : entry.object()) metadata_[word] = value.string();
      } else {
        tensors_[key] = read_entry(entry, data);
      }
    }
  } catch (const Error& error) {
    fail(MS_ERROR_CONFIG, name, " is not a readable snapshot (", error.what(), ")");
  }
}

const TensorView& Safetensors::at(const std::string& name, Dtype dtype, const Shape& shape) const {
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), MS_ERROR_CONFIG, "the snapshot lacks '", name, "'");
  const TensorView& view = found->second;
  require(view.dtype == dtype && (shape.empty() || view.shape == shape), MS_ERROR_CONFIG, "the snapshot's ", name,
          " is ", names(view.dtype).numpy, " ", shape_text(view.shape), ", which does not fit this bundle (",
          names(dtype).numpy, " ", shape_text(shape), "); restore with the bundle it was made with");
  return view;
}

}  // namespace ms_infer
