#include "log.hpp"

#include <atomic>
#include <mutex>

namespace ms_infer {

namespace {

std::mutex guard;
std::atomic<LogSink> sink{nullptr};
void* owner = nullptr;

}  // namespace

void set_log(LogSink heard, void* user) {
  const std::lock_guard lock(guard);
  sink = heard, owner = user;
}

bool log_is_heard() { return sink != nullptr; }

// Under the lock: once `set_log` has returned, nobody hears the old callback any more.
void log_words(LogLevel level, const std::string& words) {
  const std::lock_guard lock(guard);
  if (const LogSink heard = sink) heard(owner, static_cast<int>(level), words.c_str());
}

}  // namespace ms_infer
