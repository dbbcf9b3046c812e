#include "files/npy.hpp"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string_view>

namespace ms_infer {

namespace {

static_assert(std::endian::native == std::endian::little, "files hold little-endian numbers");

[[noreturn]] void refuse(const std::string& why) { fail(MS_ERROR_CONFIG, "not an .npy of numbers: ", why); }

// The text between two marks of a header, "" where they are missing.
std::string_view between(std::string_view text, std::string_view open, std::string_view close) {
  const auto start = text.find(open);
  if (start == std::string_view::npos) return {};
  const auto rest = text.substr(start + open.size());
  const auto end = rest.find(close);
  return end == std::string_view::npos ? std::string_view{} : rest.substr(0, end);
}

Shape read_shape(std::string_view text) {
  Shape shape;
  while (true) {
    while (!text.empty() && (text.front() == ' ' || text.front() == ',')) text.remove_prefix(1);
    if (text.empty()) return shape;
    std::int64_t length = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    if (error != std::errc() || length < 0 || length > std::int64_t{1} << 40 || shape.size() > 8) refuse("its shape");
    shape.push_back(length);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  }
}

float half_to_float(std::uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(float(mantissa), -24);
  return sign * std::ldexp(float(mantissa | 1024), exponent - 25);
}

template <class Stored>
Stored value_at(const unsigned char* data, std::size_t place) {
  Stored value;
  std::memcpy(&value, data + place * sizeof value, sizeof value);
  return value;
}

// Calls use(value) for every value of a known kind; false for others.
template <class Use>
bool each(const NpyArray& array, Use&& use) {
  const auto all = [&]<class Stored>(Stored) {
    for (std::size_t i = 0; i < array.count(); ++i) use(value_at<Stored>(array.data.data(), i));
    return true;
  };
  if (array.kind == "<f8") return all(double{});
  if (array.kind == "<f4") return all(float{});
  if (array.kind == "<i8") return all(std::int64_t{});
  if (array.kind == "<i4") return all(std::int32_t{});
  if (array.kind == "|u1" || array.kind == "|b1") return all(std::uint8_t{});
  if (array.kind != "<f2") return false;
  for (std::size_t i = 0; i < array.count(); ++i) use(half_to_float(value_at<std::uint16_t>(array.data.data(), i)));
  return true;
}

}  // namespace

std::size_t NpyArray::count() const {
  std::size_t product = 1;
  for (const auto length : shape) product *= static_cast<std::size_t>(length);
  return product;
}

std::vector<double> NpyArray::numbers() const {
  std::vector<double> values;
  values.reserve(count());
  if (!each(*this, [&](auto value) { values.push_back(static_cast<double>(value)); })) refuse("its values are " + kind);
  return values;
}

std::vector<std::int64_t> NpyArray::integers() const {
  if (kind != "<i8" && kind != "<i4" && kind != "|u1") refuse("its values are " + kind + ", not whole numbers");
  std::vector<std::int64_t> values;
  values.reserve(count());
  each(*this, [&](auto value) { values.push_back(static_cast<std::int64_t>(value)); });
  return values;
}

NpyArray read_npy(std::span<const unsigned char> file) {
  if (file.size() < 12 || std::memcmp(file.data(), "\x93NUMPY", 6) != 0) refuse("it does not begin as one");
  const bool wide = file[6] >= 2;
  std::size_t length = file[8] | std::size_t{file[9]} << 8;
  if (wide) length |= std::size_t{file[10]} << 16 | std::size_t{file[11]} << 24;
  const std::size_t begin = wide ? 12 : 10;
  if (begin + length > file.size()) refuse("it is cut off");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + begin, length);
  NpyArray array{std::string(between(text, "'descr': '", "'")), read_shape(between(text, "'shape': (", ")")), {}};
  if (text.find("'fortran_order': False") == std::string_view::npos) refuse("it is not in C order");
  if (array.kind.size() != 3 || array.kind[2] < '1' || array.kind[2] > '8') refuse("its values are " + array.kind);
  double bytes = array.kind[2] - '0';
  for (const auto axis : array.shape) bytes *= double(axis);
  const auto left = file.size() - begin - length;
  if (bytes > double(left)) refuse("it is cut off");
  array.data = file.subspan(begin + length, static_cast<std::size_t>(bytes));
  return array;
}

Bytes npy_bytes(const std::string& kind, const Shape& shape, std::span<const unsigned char> data) {
  std::string header = "{'descr': '" + kind + "', 'fortran_order': False, 'shape': (";
  for (const auto length : shape) header += std::to_string(length) + ",";
  header += "), }";
  const std::size_t padded = (10 + header.size() + 1 + 63) / 64 * 64 - 10;
  header.resize(padded - 1, ' ');
  const std::string head = std::string("\x93NUMPY\x01\x00", 8) + char(padded & 255) + char(padded >> 8) + header + '\n';
  Bytes file(head.begin(), head.end());
  file.insert(file.end(), data.begin(), data.end());
  return file;
}

}  // namespace ms_infer
