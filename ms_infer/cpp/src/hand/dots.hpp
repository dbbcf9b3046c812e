// The points that a hand moves: where they are, where they rested, what they are; hand/dots.py in C++. Rows keep order.
#pragma once

#include <span>
#include <unordered_set>
#include <vector>

#include "tracks/tracks.hpp"

namespace ms_infer {

enum class Kind : std::uint8_t { grid = 0, drag = 1, fixed = 2, path = 3 };

using Mask = std::vector<std::uint8_t>;

struct Dots {
  explicit Dots(std::size_t most) : capacity(most) {}

  std::size_t size() const { return ids.size(); }
  // No points; ids go on counting, so that a new point is never taken for an old one.
  void clear();
  // Appends as many as fit; returns their ids.
  std::vector<std::int64_t> add(std::span<const Point> added, Kind which, bool group = false);
  // Only the points of the mask.
  void keep(const Mask& mask);
  // Rows of the points with these ids, of those that are still there.
  std::vector<std::size_t> rows(std::span<const std::int64_t> wanted) const;

  std::size_t capacity;
  std::vector<std::int64_t> ids;
  std::vector<Point> points, rest;
  std::vector<Kind> kind;
  Mask free, grouped;  // that the model may put where it likes; that move together

 private:
  friend struct SavedHand;

  std::int64_t next_ = 0;
};

constexpr double squared(double x, double y) { return x * x + y * y; }

// Centres of equal cells, row by row.
std::vector<Point> grid_cells(int rows, int cols);

// Which points come along with a press at `point`; some of `kind` are added if need be. `thing`: points that lie upon a
// thing, which are taken instead of what is within reach.
Mask taken(Dots& dots, const Point& point, double reach, std::span<const Point> thing, Kind kind, double aspect);

}  // namespace ms_infer
