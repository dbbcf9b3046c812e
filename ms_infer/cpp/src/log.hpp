// Words for whoever embeds the library, through one callback of theirs; nothing is written anywhere else.
#pragma once

#include <sstream>
#include <string>

namespace ms_infer {

enum class LogLevel { debug = 0, info = 1, warning = 2 };

using LogSink = void (*)(void* user, int level, const char* words);

// nullptr: nobody listens.
void set_log(LogSink sink, void* user);
bool log_is_heard();
void log_words(LogLevel level, const std::string& words);

// The parts one after the other, as one line.
template <class... Parts>
void log(LogLevel level, const Parts&... parts) {
  if (!log_is_heard()) return;
  std::ostringstream words;
  (words << ... << parts);
  log_words(level, words.str());
}

}  // namespace ms_infer
