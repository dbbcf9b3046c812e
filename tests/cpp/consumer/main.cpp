#include <cstdio>
#include <ms_infer/ms_infer.hpp>

int main(int count, char** arguments) {
  const auto tracks = ms::Tracks::grid(2, 2).grab({0.2, 0.2}, {0.5, 0.5}, {.radius = 0.2});
  try {
    if (count > 1) {
      ms::Stream stream(arguments[1]);
      const ms::Chunk chunk = stream.step();
      std::printf("chunk %d: %d frames\n", int(chunk.index), chunk.rgb_frames);
      return 0;
    }
    ms::Stream("no such bundle");
  } catch (const ms::Error& error) {
    std::printf("ms_infer %s from C++: %s\n", ms_version(), error.what());
    return error.status() == MS_ERROR_BUNDLE && tracks.get() ? 0 : 1;
  }
  return 1;
}
