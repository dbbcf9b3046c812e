#include "hand/dots.hpp"

#include <algorithm>
#include <cmath>

#include "hand/hand.hpp"

namespace ms_infer {

namespace {

constexpr std::int64_t kIdRange = 100'000, kIdStride = 7919;  // ids jump about the range that models are trained with
constexpr double kNear = 0.04;                    // a grabbed point this close is the one that is meant
constexpr double kOfThing = 0.05, kHere = 0.02;   // part of a thing; stands for one of its points

// The points of a thing, one of its own added wherever none stands for it.
Mask of_thing(Dots& dots, std::span<const Point> thing, Kind kind, double aspect) {
  const auto apart = [&](std::size_t row, const Point& other) {
    return squared((dots.points[row][0] - other[0]) * aspect, dots.points[row][1] - other[1]);
  };
  Mask found(dots.size(), 0), stood_for(thing.size(), 0);
  for (std::size_t row = 0; row < found.size(); ++row) {
    double least = INFINITY;
    for (const Point& one : thing) least = std::min(least, apart(row, one));
    const double near = dots.kind[row] == Kind::grid ? kHere * kHere : kOfThing * kOfThing;
    found[row] = dots.kind[row] != Kind::fixed && least < near;
    for (std::size_t i = 0; found[row] && i < thing.size(); ++i)
      if (apart(row, thing[i]) < kHere * kHere) stood_for[i] = 1;
  }
  std::vector<Point> added;
  for (std::size_t i = 0; i < thing.size(); ++i)
    if (!stood_for[i]) added.push_back(thing[i]);
  dots.add(added, kind);
  found.resize(dots.size(), 1);
  return found;
}

// The points within reach; lets go of the grid just beyond, where it is not known what comes along.
Mask within(Dots& dots, const Point& point, double reach, double aspect) {
  std::vector<double> away(dots.size());
  Mask group(dots.size(), 0), found(dots.size(), 0);
  double least = INFINITY;
  for (std::size_t row = 0; row < away.size(); ++row) {
    away[row] = squared((dots.points[row][0] - point[0]) * aspect, dots.points[row][1] - point[1]);
    group[row] = dots.kind[row] != Kind::fixed && dots.grouped[row];
    if (group[row]) least = std::min(least, away[row]);
  }
  const double meant = std::max(kNear, reach / 2);
  if (least < meant * meant) return group;
  const double near = std::max(reach, kNear), rim = kHandRim * reach;
  for (std::size_t row = 0; row < away.size(); ++row) {
    found[row] = dots.kind[row] != Kind::fixed && away[row] < near * near;
    if (!found[row] && dots.kind[row] == Kind::grid && away[row] < rim * rim) dots.free[row] = 1;
  }
  return found;
}

}  // namespace

void Dots::clear() {
  ids.clear(), points.clear(), rest.clear(), kind.clear(), free.clear(), grouped.clear();
}

std::vector<std::int64_t> Dots::add(std::span<const Point> added, Kind which, bool group) {
  added = added.first(std::min(added.size(), capacity - size()));
  const std::unordered_set<std::int64_t> used(ids.begin(), ids.end());
  std::vector<std::int64_t> fresh;
  while (fresh.size() < added.size()) {
    const std::int64_t one = next_++ * kIdStride % kIdRange;
    if (!used.contains(one)) fresh.push_back(one);
  }
  ids.insert(ids.end(), fresh.begin(), fresh.end());
  points.insert(points.end(), added.begin(), added.end());
  rest.insert(rest.end(), added.begin(), added.end());
  kind.resize(ids.size(), which), free.resize(ids.size(), 0), grouped.resize(ids.size(), group);
  return fresh;
}

void Dots::keep(const Mask& mask) {
  std::size_t kept = 0;
  for (std::size_t row = 0; row < mask.size(); ++row) {
    if (!mask[row]) continue;
    ids[kept] = ids[row], points[kept] = points[row], rest[kept] = rest[row];
    kind[kept] = kind[row], free[kept] = free[row], grouped[kept] = grouped[row];
    ++kept;
  }
  ids.resize(kept), points.resize(kept), rest.resize(kept);
  kind.resize(kept), free.resize(kept), grouped.resize(kept);
}

std::vector<std::size_t> Dots::rows(std::span<const std::int64_t> wanted) const {
  const std::unordered_set<std::int64_t> names(wanted.begin(), wanted.end());
  std::vector<std::size_t> found;
  for (std::size_t row = 0; row < size(); ++row)
    if (names.contains(ids[row])) found.push_back(row);
  return found;
}

std::vector<Point> grid_cells(int rows, int cols) {
  std::vector<Point> cells;
  for (int row = 0; row < rows; ++row)
    for (int col = 0; col < cols; ++col) cells.push_back({(col + 0.5) / cols, (row + 0.5) / rows});
  return cells;
}

Mask taken(Dots& dots, const Point& point, double reach, std::span<const Point> thing, Kind kind, double aspect) {
  if (!thing.empty()) return of_thing(dots, thing, kind, aspect);
  Mask near = within(dots, point, reach, aspect);
  if (std::any_of(near.begin(), near.end(), [](auto one) { return one; })) return near;
  dots.add(std::array<Point, 1>{point}, kind);
  near.resize(dots.size(), 1);
  return near;
}

}  // namespace ms_infer
