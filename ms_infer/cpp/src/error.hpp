// Errors inside the library; the C interface turns them into a status and words.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "ms_infer/ms_infer.h"

namespace ms_infer {

class Error : public std::runtime_error {
 public:
  Error(ms_status status, const std::string& message) : std::runtime_error(message), status(status) {}

  ms_status status;
};

// Throws an Error whose message is the parts one after the other.
template <class... Parts>
[[noreturn]] void fail(ms_status status, const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(status, message.str());
}

template <class... Parts>
void require(bool condition, ms_status status, const Parts&... parts) {
  if (!condition) fail(status, parts...);
}

}  // namespace ms_infer
