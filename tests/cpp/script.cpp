// Plays tests/cpp/gestures.txt through ms_infer.hpp and writes the frames: script_cpp BUNDLE SCRIPT FILE.rgb
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>

#include "ms_infer/ms_infer.hpp"

namespace {

std::vector<ms::Point> pairs(const std::vector<double>& numbers, std::size_t from = 0) {
  std::vector<ms::Point> points;
  for (std::size_t i = from; i + 1 < numbers.size(); i += 2) points.push_back({numbers[i], numbers[i + 1]});
  return points;
}

class Player {
 public:
  Player(const std::string& bundle, const std::string& out)
      : stream_(ms::Model(bundle, {.engine = "openvino", .precision = "fp32"})), out_(out, std::ios::binary) {}

  void play(const std::string& word, const std::vector<double>& n) {
    const std::map<std::string, std::function<void()>> words{
        {"grid", [&] { tracks_ = ms::Tracks::grid(int(n.at(0)), int(n.at(1))); }},
        {"grab", [&] { tracks_ = tracks_.grab({n.at(0), n.at(1)}, {n.at(2), n.at(3)}, {n.at(4), n.at(5), n.at(6)}); }},
        {"camera",
         [&] {
           tracks_ = tracks_.camera({.pan = {n.at(0), n.at(1)}, .zoom = n.at(2), .roll = n.at(3), .dolly = n.at(5),
                                     .seconds = n.at(6), .start = n.at(7), .aspect = n.at(4)});
         }},
        {"static", [&] { tracks_ = tracks_.with_static(pairs(n)); }},
        {"resample", [&] { tracks_ = tracks_.resample(n.at(0)); }},
        {"path", [&] { tracks_ = tracks_.path(pairs(n, 4), {n.at(0), n.at(1), n.at(2)}, n.at(3) != 0); }},
        {"set", [&] { stream_.set_tracks(tracks_); }},
        {"step",
         [&] {
           const ms::Chunk chunk = stream_.step();
           out_.write(reinterpret_cast<const char*>(chunk.frames.data()), std::streamsize(chunk.frames.size()));
         }},
        {"hand",
         [&] {
           hand_ = ms::Hand({.rows = int(n.at(0)), .cols = int(n.at(1)), .aspect = n.at(2), .fps = n.at(3), .capacity = int(n.at(4))});
         }},
        {"live", [&] { stream_.set_tracks(hand_.tracks(n.at(0), stream_.info().next_rgb_frames)); }},
        {"press", [&] { hand_.press(std::int64_t(n.at(0)), n.at(1), n.at(2), n.at(3), n.at(4)); }},
        {"move", [&] { hand_.move(std::int64_t(n.at(0)), n.at(1), n.at(2), n.at(3)); }},
        {"release", [&] { hand_.release(std::int64_t(n.at(0))); }},
        {"static_points", [&] { hand_.add_static(pairs(n)); }},
        {"brush", [&] { hand_.brush(pairs(n)); }},
        {"steer", [&] { hand_.steer(n.at(0), n.at(1), n.at(2), n.at(3)); }},
        {"carry", [&] { hand_.carry(n.at(0), n.at(1), n.at(2), n.at(3)); }},
    };
    words.at(word)();
  }

 private:
  ms::Stream stream_;
  ms::Tracks tracks_;
  ms::Hand hand_;
  std::ofstream out_;
};

}  // namespace

int main(int count, char** arguments) try {
  if (count != 4) return 2;
  Player player(arguments[1], arguments[3]);
  std::ifstream script(arguments[2]);
  for (std::string line, word; std::getline(script, line);) {
    std::istringstream words(line);
    std::vector<double> numbers;
    words >> word;
    for (double value; words >> value;) numbers.push_back(value);
    player.play(word, numbers);
  }
  return 0;
} catch (const std::exception& error) {
  std::puts(error.what());
  return 1;
}
