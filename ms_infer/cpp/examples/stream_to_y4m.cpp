// An image and a grab to a video file: stream_to_y4m --bundle DIR [--image a.ppm] [--chunks 10] -o out.y4m
// YUV4MPEG2 plays in mpv, ffplay and VLC, and needs no library to write.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <string>

#include "ms_infer/ms_infer.hpp"
#include "ppm.hpp"

namespace {

std::uint8_t byte(double value) { return static_cast<std::uint8_t>(std::clamp(value + 0.5, 0.0, 255.0)); }

// One frame as planes Y, Cb, Cr in full resolution, BT.601 limited range.
void write_frame(std::ofstream& file, std::span<const std::uint8_t> rgb) {
  static constexpr double kRows[3][4] = {{16, 65.481, 128.553, 24.966},
                                         {128, -37.797, -74.203, 112.0},
                                         {128, 112.0, -93.786, -18.214}};
  file << "FRAME\n";
  for (const auto& row : kRows)
    for (std::size_t i = 0; i < rgb.size(); i += 3)
      file.put(char(byte(row[0] + (row[1] * rgb[i] + row[2] * rgb[i + 1] + row[3] * rgb[i + 2]) / 255)));
}

int stream(std::map<std::string, std::string> options) {
  ms::Stream video(options["--bundle"]);
  const ms_stream_info info = video.info();
  ms::Start start;
  Picture picture;
  if (options.contains("--image")) {
    picture = read_ppm(options["--image"]);
    start.image = {picture.rgb, picture.width, picture.height};
  }
  start.prompt.text = options["--prompt"];
  if (info.max_tracks >= 100)
    start.tracks = ms::Tracks::grid(10, 10).grab({0.4, 0.5}, {0.6, 0.4}, {.seconds = 1.5, .radius = 0.15});
  video.start(start);

  std::ofstream file(options["-o"], std::ios::binary);
  file << "YUV4MPEG2 W" << info.width << " H" << info.height << " F" << int(info.fps * 1000 + 0.5) << ":1000 Ip A1:1 C444\n";
  double milliseconds = 0;
  int frames = 0;
  for (int i = 0; i < std::atoi(options["--chunks"].c_str()); ++i) {
    const ms::Chunk chunk = video.step();
    for (int k = 0; k < chunk.rgb_frames; ++k) write_frame(file, chunk.frame(k));
    milliseconds += chunk.chunk_ms;
    frames += chunk.rgb_frames;
  }
  if (!file.flush()) throw std::runtime_error("cannot write " + options["-o"]);
  std::cerr << frames << " frames by " << info.engine << " at " << 1000 * frames / milliseconds << " fps\n";
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  std::map<std::string, std::string> options{{"--chunks", "10"}, {"--prompt", ""}};
  for (int i = 1; i + 1 < count; i += 2) options[arguments[i]] = arguments[i + 1];
  if (count % 2 == 0 || !options.contains("--bundle") || !options.contains("-o")) {
    std::cerr << "usage: stream_to_y4m --bundle DIR [--image a.ppm] [--prompt WORDS] [--chunks 10] -o out.y4m\n";
    return 2;
  }
  try {
    return stream(std::move(options));
  } catch (const std::exception& error) {
    std::cerr << "stream_to_y4m: " << error.what() << '\n';
    return 1;
  }
}
