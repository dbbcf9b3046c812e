#include "files/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace ms_infer {

namespace {

constexpr int kMaxDepth = 64;

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Json whole() {
    Json value = this->value(0);
    space();
    if (at_ != text_.size()) mistake("nothing more");
    return value;
  }

 private:
  [[noreturn]] void mistake(std::string_view expected) const {
    fail(MS_ERROR_BUNDLE, "no JSON: at byte ", at_, " ", expected, " was expected");
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char wanted) {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void space() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  void word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) mistake(wanted);
    at_ += wanted.size();
  }

  Json value(int depth) {
    if (depth > kMaxDepth) mistake("less nesting");
    space();
    switch (peek()) {
      case '{': return Json(object(depth));
      case '[': return Json(array(depth));
      case '"': return Json(string());
      case 't': return word("true"), Json(true);
      case 'f': return word("false"), Json(false);
      case 'n': return word("null"), Json();
      default: return Json(number());
    }
  }

  Json::Object object(int depth) {
    Json::Object members;
    ++at_;
    space();
    if (take('}')) return members;
    do {
      space();
      if (peek() != '"') mistake("a name");
      std::string name = string();
      space();
      if (!take(':')) mistake("':'");
      members.emplace_back(std::move(name), value(depth + 1));
      space();
    } while (take(','));
    if (!take('}')) mistake("',' or '}'");
    refuse_repeated(members);
    return members;
  }

  static void refuse_repeated(const Json::Object& members) {
    std::vector<std::string_view> names;
    for (const auto& [name, unused] : members) names.push_back(name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) fail(MS_ERROR_BUNDLE, "JSON has the name '", *twice, "' twice in one object");
  }

  Json::Array array(int depth) {
    Json::Array values;
    ++at_;
    space();
    if (take(']')) return values;
    do {
      values.push_back(value(depth + 1));
      space();
    } while (take(','));
    if (!take(']')) mistake("',' or ']'");
    return values;
  }

  Json::Number number() {
    const auto start = at_;
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (!take('+')) take('-');
      digits();
    }
    return {std::string(text_.substr(start, at_ - start))};
  }

  void digits() {
    const auto start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == start) mistake("a value");
  }

  std::string string() {
    std::string out;
    ++at_;
    while (!take('"')) {
      if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20) mistake("the end of a string");
      if (take('\\')) {
        escape(out);
      } else {
        out += text_[at_++];
      }
    }
    return out;
  }

  void escape(std::string& out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const auto place = kNames.find(peek());
    if (at_ < text_.size() && place != std::string_view::npos) {
      ++at_;
      out += kValues[place];
      return;
    }
    if (!take('u')) mistake("an escape");
    std::uint32_t code = four_digits();
    if (code >= 0xD800 && code < 0xDC00) {
      if (!take('\\') || !take('u')) mistake("the second half of a surrogate pair");
      const auto low = four_digits();
      if (low < 0xDC00 || low >= 0xE000) mistake("the second half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      mistake("the first half of a surrogate pair");
    }
    append_utf8(out, code);
  }

  std::uint32_t four_digits() {
    std::uint32_t code = 0;
    if (at_ + 4 > text_.size()) mistake("four hexadecimal digits");
    const char* first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, first + 4, code, 16);
    if (error != std::errc() || end != first + 4) mistake("four hexadecimal digits");
    at_ += 4;
    return code;
  }

  static void append_utf8(std::string& out, std::uint32_t code) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6)), tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0);
    } else {
      out += static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0);
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// One code point of UTF-8 from `at` on; bytes that are no UTF-8 stand for themselves.
std::uint32_t next_code(const std::string& text, std::size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
  std::uint32_t code = more == 0 ? lead : lead & (0x3F >> more);
  for (int i = 0; i < more && at < text.size(); ++i) code = code << 6 | (static_cast<unsigned char>(text[at++]) & 0x3F);
  return code;
}

void append_hex(std::string& out, std::uint32_t unit) {
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += "0123456789abcdef"[(unit >> shift) & 15];
}

void write_string(std::string& out, const std::string& text) {
  static constexpr std::string_view kPlain = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const auto code = next_code(text, at);
    const auto place = code < 0x80 ? kPlain.find(static_cast<char>(code)) : std::string_view::npos;
    if (place != std::string_view::npos) {
      out += '\\';
      out += kNames[place];
    } else if (code >= 0x20 && code < 0x7F) {
      out += static_cast<char>(code);
    } else if (code < 0x10000) {
      append_hex(out, code);
    } else {
      append_hex(out, 0xD800 + ((code - 0x10000) >> 10));
      append_hex(out, 0xDC00 + ((code - 0x10000) & 0x3FF));
    }
  }
  out += '"';
}

template <class Kind, class Value>
const Kind& as(const Value& value, const char* wanted) {
  const Kind* found = std::get_if<Kind>(&value);
  require(found != nullptr, MS_ERROR_BUNDLE, "JSON holds another kind of value where ", wanted, " was expected");
  return *found;
}

}  // namespace

Json Json::parse(std::string_view text) { return Reader(text).whole(); }

bool Json::boolean() const { return as<bool>(value_, "true or false"); }
const std::string& Json::string() const { return as<std::string>(value_, "a string"); }
const Json::Array& Json::array() const { return as<Array>(value_, "an array"); }
const Json::Object& Json::object() const { return as<Object>(value_, "an object"); }

double Json::number() const {
  const auto& text = as<Number>(value_, "a number").text;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && std::isfinite(value), MS_ERROR_BUNDLE, "JSON holds the number ", text,
          ", which is too large");
  return value;
}

std::int64_t Json::integer() const {
  const auto& text = as<Number>(value_, "a whole number").text;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), MS_ERROR_BUNDLE, "JSON holds ", text,
          " where a whole number of 64 bits was expected");
  return value;
}

const Json* Json::find(std::string_view name) const {
  for (const auto& [known, value] : object())
    if (known == name) return &value;
  return nullptr;
}

const Json& Json::at(std::string_view name) const {
  const Json* found = find(name);
  require(found != nullptr, MS_ERROR_BUNDLE, "JSON lacks the field '", name, "'");
  return *found;
}

std::string Json::sorted_text() const {
  std::string out;
  write(out);
  return out;
}

void Json::write(std::string& out) const {
  if (is_null()) {
    out += "null";
  } else if (const auto* truth = std::get_if<bool>(&value_)) {
    out += *truth ? "true" : "false";
  } else if (const auto* number = std::get_if<Number>(&value_)) {
    out += number->text;
  } else if (const auto* text = std::get_if<std::string>(&value_)) {
    write_string(out, *text);
  } else if (const auto* values = std::get_if<Array>(&value_)) {
    out += '[';
    for (std::size_t i = 0; i < values->size(); ++i) {
      if (i) out += ", ";
      (*values)[i].write(out);
    }
    out += ']';
  } else {
    std::vector<const std::pair<std::string, Json>*> sorted;
    for (const auto& member : std::get<Object>(value_)) sorted.push_back(&member);
    std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    out += '{';
    for (std::size_t i = 0; i < sorted.size(); ++i) {
      if (i) out += ", ";
      write_string(out, sorted[i]->first);
      out += ": ";
      sorted[i]->second.write(out);
    }
    out += '}';
  }
}

}  // namespace ms_infer
