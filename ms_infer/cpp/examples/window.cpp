// Drag in a window, and the video follows, with SDL2: window --bundle DIR [--image a.ppm] [--frames N --drag x,y:x,y
// --last out.ppm]. With --frames it ends by itself; --drag sends the events of a mouse, --last keeps the last frame.
#include <SDL.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <iostream>
#include <map>
#include <thread>

#include "ms_infer/ms_infer.hpp"
#include "ppm.hpp"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kScale = 4;
constexpr double kReach = 0.2;  // picture heights

double seconds() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

void check(bool fine) {
  if (!fine) throw std::runtime_error(SDL_GetError());
}

// A window, and the picture in it.
class Window {
 public:
  Window(int width, int height) : width_(width), height_(height) {
    check(SDL_Init(SDL_INIT_VIDEO) == 0);
    window_ = SDL_CreateWindow("ms_infer", SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED, width * kScale, height * kScale, 0);
    check(window_ != nullptr);
    renderer_ = SDL_CreateRenderer(window_, -1, 0);
    check(renderer_ != nullptr);
    texture_ = SDL_CreateTexture(renderer_, SDL_PIXELFORMAT_RGB24, SDL_TEXTUREACCESS_STREAMING, width, height);
    check(texture_ != nullptr);
  }
  Window(const Window&) = delete;
  ~Window() { SDL_Quit(); }

  void show(std::span<const std::uint8_t> rgb) {
    check(SDL_UpdateTexture(texture_, nullptr, rgb.data(), 3 * width_) == 0);
    check(SDL_RenderCopy(renderer_, texture_, nullptr, nullptr) == 0);
    SDL_RenderPresent(renderer_);
  }

  // Gives what happened to the hand; false when the window is closed.
  bool events(ms::Hand& hand) {
    for (SDL_Event event; SDL_PollEvent(&event) != 0;) {
      if (event.type == SDL_QUIT) return false;
      if (event.type == SDL_MOUSEBUTTONDOWN)
        hand.press(0, event.button.x / across(), event.button.y / down(), seconds(), kReach);
      if (event.type == SDL_MOUSEMOTION) hand.move(0, event.motion.x / across(), event.motion.y / down(), seconds());
      if (event.type == SDL_MOUSEBUTTONUP) hand.release(0);
    }
    return true;
  }

  // Events as if the mouse were there, for programs that nobody watches.
  void pretend(SDL_EventType type, double x, double y) {
    SDL_Event event = {};
    event.type = type;
    if (type == SDL_MOUSEMOTION)
      event.motion.x = int(x * across()), event.motion.y = int(y * down());
    else
      event.button.x = int(x * across()), event.button.y = int(y * down());
    check(SDL_PushEvent(&event) >= 0);
  }

 private:
  double across() const { return width_ * kScale; }
  double down() const { return height_ * kScale; }

  int width_, height_;
  SDL_Window* window_ = nullptr;
  SDL_Renderer* renderer_ = nullptr;
  SDL_Texture* texture_ = nullptr;
};

// The events of a mouse that takes what is at `from` to `to` while 24 frames are shown.
struct Drag {
  double from[2] = {0, 0}, to[2] = {0, 0};
  bool given = false;

  void play(Window& window, int frame) const {
    if (!given || frame > 24) return;
    const double part = frame / 24.0;
    const SDL_EventType type = frame == 0 ? SDL_MOUSEBUTTONDOWN : frame == 24 ? SDL_MOUSEBUTTONUP : SDL_MOUSEMOTION;
    window.pretend(type, from[0] + part * (to[0] - from[0]), from[1] + part * (to[1] - from[1]));
  }
};

Drag drag_of(const std::string& text) {
  Drag drag;
  const int read = std::sscanf(text.c_str(), "%lf,%lf:%lf,%lf", &drag.from[0], &drag.from[1], &drag.to[0], &drag.to[1]);
  drag.given = read == 4;
  if (!text.empty() && !drag.given) throw std::runtime_error("--drag " + text + " should read x,y:x,y");
  return drag;
}

// Shows chunks until the window is closed or `most` frames were shown (0: for ever); returns the last frame.
std::vector<std::uint8_t> loop(ms::Stream& stream, int most, const Drag& drag) {
  const ms_stream_info info = stream.info();
  ms::Hand hand({.aspect = double(info.width) / info.height, .fps = info.fps, .capacity = info.max_tracks});
  Window window(info.width, info.height);
  const auto make = [&] {
    stream.set_tracks(hand.tracks(seconds(), stream.info().next_rgb_frames));
    return stream.step();
  };
  auto due = Clock::now();
  std::future<ms::Chunk> next = std::async(std::launch::async, make);
  for (int shown = 0;;) {
    const ms::Chunk chunk = next.get();
    next = std::async(std::launch::async, make);  // the next chunk is made while this one is shown
    for (int k = 0; k < chunk.rgb_frames; ++k) {
      drag.play(window, shown);
      window.show(chunk.frame(k));
      if (!window.events(hand) || ++shown == most) {
        stream.cancel();
        return {chunk.frame(k).begin(), chunk.frame(k).end()};
      }
      due = std::max(due + std::chrono::microseconds(int(1e6 / info.fps)), Clock::now());
      std::this_thread::sleep_until(due);
    }
  }
}

int run(std::map<std::string, std::string> options) {
  ms::Stream stream(options["--bundle"]);
  ms::Start start;
  Picture picture;
  if (options.contains("--image")) {
    picture = read_ppm(options["--image"]);
    start.image = {picture.rgb, picture.width, picture.height};
  }
  stream.start(start);
  const auto last = loop(stream, std::atoi(options["--frames"].c_str()), drag_of(options["--drag"]));
  if (options.contains("--last")) write_ppm(options["--last"], last, stream.info().width, stream.info().height);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  std::map<std::string, std::string> options;
  for (int i = 1; i + 1 < count; i += 2) options[arguments[i]] = arguments[i + 1];
  if (count % 2 == 0 || !options.contains("--bundle")) {
    std::cerr << "usage: window --bundle DIR [--image a.ppm] [--frames N] [--drag x,y:x,y] [--last out.ppm]\n";
    return 2;
  }
  try {
    return run(std::move(options));
  } catch (const std::exception& error) {
    std::cerr << "window: " << error.what() << '\n';
    return 1;
  }
}
