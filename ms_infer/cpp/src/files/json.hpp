// A small strict JSON reader (RFC 8259): bounded, no duplicate names, no extensions; numbers keep their text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "error.hpp"

namespace ms_infer {

class Json {
 public:
  struct Number {
    std::string text;  // as it stood in the file
  };
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;
  explicit Json(bool value) : value_(value) {}
  explicit Json(Number value) : value_(std::move(value)) {}
  explicit Json(std::string value) : value_(std::move(value)) {}
  explicit Json(Array value) : value_(std::move(value)) {}
  explicit Json(Object value) : value_(std::move(value)) {}

  // Reads a whole text; throws MS_ERROR_BUNDLE with the place of the first mistake.
  static Json parse(std::string_view text);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  // Each throws MS_ERROR_BUNDLE when the value is of another kind.
  bool boolean() const;
  double number() const;
  std::int64_t integer() const;
  const std::string& string() const;
  const Array& array() const;
  const Object& object() const;
  // Member of an object; MS_ERROR_BUNDLE when it is absent.
  const Json& at(std::string_view name) const;
  // Member of an object, or nullptr.
  const Json* find(std::string_view name) const;

  // The text that Python's json.dumps(value, sort_keys=True) gives.
  std::string sorted_text() const;

 private:
  void write(std::string& out) const;

  std::variant<std::monostate, bool, Number, std::string, Array, Object> value_;
};

}  // namespace ms_infer
