#include "media/picture.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ms_infer {

namespace {

constexpr double kLobes = 3.0;
constexpr int kFractionBits = 32 - 8 - 2;  // 8 bits of value and 2 of headroom leave 22 of coefficient

// What one output line reads: `weights` of the input lines from `first` on.
struct Taps {
  int first = 0;
  std::vector<int> weights;
};

double sinc(double x) {
  const double angle = x * std::numbers::pi;
  return x == 0 ? 1.0 : std::sin(angle) / angle;
}

double lanczos(double x) { return x >= -kLobes && x < kLobes ? sinc(x) * sinc(x / kLobes) : 0.0; }

std::vector<Taps> make_taps(int inputs, float start, float end, int outputs) {
  const double scale = double(end - start) / outputs, stretch = std::max(scale, 1.0), support = kLobes * stretch;
  std::vector<Taps> all(static_cast<std::size_t>(outputs));
  for (int out = 0; out < outputs; ++out) {
    const double centre = start + (out + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), inputs);
    std::vector<double> weights;
    double sum = 0;
    for (int in = first; in < last; ++in) sum += weights.emplace_back(lanczos((in - centre + 0.5) * (1.0 / stretch)));
    Taps& taps = all[static_cast<std::size_t>(out)];
    taps.first = first;
    for (const double weight : weights) {
      const double scaled = (sum != 0 ? weight / sum : weight) * (1 << kFractionBits);
      taps.weights.push_back(static_cast<int>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return all;
}

std::uint8_t rounded(int sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

// RGB [height, width, 3].
struct Plane {
  std::vector<std::uint8_t> values;
  int height = 0, width = 0;
};

Plane across(const Plane& in, const std::vector<Taps>& taps) {
  Plane out{std::vector<std::uint8_t>(std::size_t(in.height) * taps.size() * 3), in.height, int(taps.size())};
  for (int y = 0; y < in.height; ++y)
    for (int x = 0; x < out.width; ++x)
      for (int c = 0; c < 3; ++c) {
        const Taps& tap = taps[std::size_t(x)];
        int sum = 1 << (kFractionBits - 1);
        for (std::size_t k = 0; k < tap.weights.size(); ++k)
          sum += in.values[(std::size_t(y) * in.width + tap.first + k) * 3 + c] * tap.weights[k];
        out.values[(std::size_t(y) * out.width + x) * 3 + c] = rounded(sum);
      }
  return out;
}

Plane down(const Plane& in, const std::vector<Taps>& taps) {
  Plane out{std::vector<std::uint8_t>(taps.size() * std::size_t(in.width) * 3), int(taps.size()), in.width};
  const std::size_t row = std::size_t(in.width) * 3;
  for (int y = 0; y < out.height; ++y)
    for (std::size_t x = 0; x < row; ++x) {
      const Taps& tap = taps[std::size_t(y)];
      int sum = 1 << (kFractionBits - 1);
      for (std::size_t k = 0; k < tap.weights.size(); ++k)
        sum += in.values[(std::size_t(tap.first) + k) * row + x] * tap.weights[k];
      out.values[std::size_t(y) * row + x] = rounded(sum);
    }
  return out;
}

}  // namespace

std::vector<std::uint8_t> fit_picture(std::span<const std::uint8_t> rgb, PictureSize from, PictureSize to) {
  Plane plane{{rgb.begin(), rgb.end()}, from.height, from.width};
  if (from == to) return std::move(plane.values);
  const double scale = std::min(double(from.width) / to.width, double(from.height) / to.height);
  // Pillow keeps the corners of its box as float32.
  const double left = (from.width - to.width * scale) / 2, top = (from.height - to.height * scale) / 2;
  const float x0 = float(std::max(left, 0.0)), x1 = float(std::min(left + to.width * scale, double(from.width)));
  const float y0 = float(std::max(top, 0.0)), y1 = float(std::min(top + to.height * scale, double(from.height)));
  if (to.width != from.width || x0 != 0 || x1 != float(from.width))
    plane = across(plane, make_taps(from.width, x0, x1, to.width));
  if (to.height != from.height || y0 != 0 || y1 != float(from.height))
    plane = down(plane, make_taps(from.height, y0, y1, to.height));
  return std::move(plane.values);
}

}  // namespace ms_infer
