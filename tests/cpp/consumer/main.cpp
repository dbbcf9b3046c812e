#include <cstdio>
#include <ms_infer/ms_infer.hpp>

int main() {
  const auto tracks = ms::Tracks::grid(2, 2).drag({0.2, 0.2}, {0.5, 0.5});
  try {
    ms::Stream("no such bundle");
  } catch (const ms::Error& error) {
    std::printf("ms_infer %s from C++: %s\n", ms_version(), error.what());
    return error.status() == MS_ERROR_BUNDLE && tracks.get() ? 0 : 1;
  }
  return 1;
}
