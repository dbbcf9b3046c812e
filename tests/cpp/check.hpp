// The whole test framework: named tests, checks that say where and what, names on the command line choose.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

[[noreturn]] inline void failed(const char* file, int line, const std::string& what) {
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

template <class A, class B>
void equal(const A& a, const B& b, const char* words, const char* file, int line) {
  if (a == b) return;
  std::ostringstream text;
  text << words << ": " << a << " is not " << b;
  failed(file, line, text.str());
}

// The message of the Error of this status that the work must throw.
template <class Failure, class Work>
std::string thrown(int status, Work&& work, const char* file, int line) {
  try {
    work();
  } catch (const Failure& error) {
    if (error.status != status) failed(file, line, "another status (" + std::to_string(error.status) + "): " + error.what());
    return error.what();
  }
  failed(file, line, "nothing was thrown");
}

inline int main(int count, char** names) {
  int failures = 0, ran = 0;
  for (const Test& test : tests()) {
    bool wanted = count < 2;
    for (int i = 1; i < count; ++i) wanted |= std::strstr(test.name, names[i]) != nullptr;
    if (!wanted) continue;
    ++ran;
    try {
      test.run();
      std::printf("ok      %s\n", test.name);
    } catch (const std::exception& error) {
      ++failures;
      std::printf("FAILED  %s\n        %s\n", test.name, error.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d of %d tests failed\n", failures, ran);
  return failures || !ran;
}

}  // namespace check

#define TEST(name)                                                  \
  static void name();                                               \
  static const check::Register register_##name{#name, name};        \
  static void name()
#define CHECK(condition) \
  if (!(condition)) check::failed(__FILE__, __LINE__, #condition)
#define CHECK_EQUAL(a, b) check::equal((a), (b), #a, __FILE__, __LINE__)
#define CHECK_CONTAINS(text, part) \
  if (std::string(text).find(part) == std::string::npos) check::failed(__FILE__, __LINE__, "'" + std::string(text) + "' lacks '" + (part) + "'")
#define CHECK_THROWS(status, work) check::thrown<ms_infer::Error>(status, [&] { work; }, __FILE__, __LINE__)
