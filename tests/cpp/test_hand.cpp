// The hand: the golden script of Python's, and calls from many threads. No bundle, no engine.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <numeric>
#include <sstream>
#include <thread>

#include "check.hpp"
#include "hand/hand.hpp"
#include "ms_infer/ms_infer.hpp"

using namespace ms_infer;

namespace {

std::string golden;

std::uint32_t crc32(const std::string& bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
  }
  return ~crc;
}

template <class Value>
void append(std::string& bytes, const std::vector<Value>& values) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value));
}

std::string digest(const Hand& hand, const Tracks& tracks) {
  std::string bytes;
  append(bytes, tracks.points), append(bytes, tracks.visible), append(bytes, tracks.ids), append(bytes, hand.kinds());
  char text[16];
  std::snprintf(text, sizeof text, "%08x", crc32(bytes));
  return text;
}

std::vector<Point> pairs(const std::vector<double>& numbers, std::size_t from) {
  std::vector<Point> points;
  for (std::size_t i = from; i + 1 < numbers.size(); i += 2) points.push_back({numbers[i], numbers[i + 1]});
  return points;
}

std::vector<float> places(const ms::Tracks& tracks) {
  std::int32_t count = 0, frames = 0;
  CHECK_EQUAL(ms_tracks_size(tracks.get(), &count, &frames), MS_OK);
  std::vector<float> points(2 * std::size_t(count) * std::size_t(frames));
  CHECK_EQUAL(ms_tracks_read(tracks.get(), points.data(), nullptr, nullptr), MS_OK);
  return points;
}

// One line of the script, as tests/hand_script.py plays it.
void play(Hand& hand, double fps, const std::string& word, const std::vector<double>& n) {
  const auto number = [&] { return static_cast<std::int64_t>(n.at(0)); };
  const std::map<std::string, std::function<void()>> words{
      {"press", [&] { hand.press(number(), {n.at(1), n.at(2)}, n.at(3), n.at(4), pairs(n, 5)); }},
      {"move", [&] { hand.move(number(), {n.at(1), n.at(2)}, n.at(3)); }},
      {"release", [&] { hand.release(number()); }},
      {"static", [&] { hand.fix(pairs(n, 0)); }},
      {"brush", [&] { hand.brush(pairs(n, 0)); }},
      {"remove", [&] { hand.remove(pairs(n, 0)); }},
      {"path", [&] { hand.path(pairs(n, 2), n.at(0), n.at(1)); }},
      {"lead",
       [&] {
         const auto all = pairs(n, 2);
         const auto corners = static_cast<std::size_t>(n.at(1));
         hand.path(std::span(all).first(corners), n.at(0), 0.1, std::span(all).subspan(corners));
       }},
      {"play",
       [&] {
         const auto frames = static_cast<int>(n.at(2));
         const std::size_t count = static_cast<std::size_t>(n.at(1));
         std::vector<std::int64_t> ids(count);
         std::iota(ids.begin(), ids.end(), 0);
         std::vector<std::uint8_t> visible(count * static_cast<std::size_t>(frames), 1);
         const Tracks tracks = Tracks::make({n.begin() + 3, n.end()}, std::move(visible), std::move(ids), frames,
                                            std::nullopt, fps);
         hand.play(&tracks, n.at(0) != 0);
       }},
      {"steer", [&] { hand.steer({{n.at(0), n.at(1), n.at(2), n.at(3)}}); }},
      {"carry", [&] { hand.carry({{n.at(0), n.at(1), n.at(2), n.at(3)}}); }},
      {"push", [&] { hand.push(std::span(n).subspan(2), int(n.at(0)), int(n.at(1))); }},
      {"grid", [&] { hand.grid(int(n.at(0)), int(n.at(1))); }},
      {"options", [&] { hand.hold(n.at(0) != 0, n.at(1) != 0); }},
  };
  words.at(word)();
}

}  // namespace

TEST(the_script_of_pythons_hand_makes_the_same_tracks) {
  std::ifstream file(golden);
  CHECK(file.good());
  Hand::Options options;
  auto hand = std::make_unique<Hand>(options);
  std::string line;
  int number = 0, compared = 0;
  while (std::getline(file, line)) {
    ++number;
    std::istringstream words(line);
    std::string word, count, wanted;
    words >> word;
    std::vector<double> numbers;
    if (word == "tracks") {
      double now = 0;
      int frames = 0;
      words >> now >> frames >> count >> wanted;
      const Tracks tracks = hand->tracks(now, frames);
      CHECK_EQUAL(std::to_string(number) + " " + std::to_string(tracks.count()) + " " + digest(*hand, tracks),
                  std::to_string(number) + " " + count + " " + wanted);
      ++compared;
      continue;
    }
    for (double value; words >> value;) numbers.push_back(value);
    if (word == "hand") {
      options = {int(numbers.at(0)), int(numbers.at(1)), numbers.at(2), numbers.at(3),
                 static_cast<std::int64_t>(numbers.at(4))};
      hand = std::make_unique<Hand>(options);
    } else if (word == "saved") {
      const Bytes saved = hand->save(numbers.at(0));
      hand = std::make_unique<Hand>(options);
      hand->load(numbers.at(0), saved);
    } else {
      play(*hand, options.fps, word, numbers);
    }
  }
  CHECK(compared > 300);
}

TEST(a_saved_hand_goes_on_at_another_time_and_what_no_hand_saved_changes_nothing) {
  ms::Hand hand, other({.rows = 2, .cols = 2});
  hand.press(1, 0.4, 0.5, 100.0), hand.steer(0.5, 0), hand.move(1, 0.6, 0.5, 100.5);
  hand.tracks(101.0, 9);
  const auto saved = hand.save(101.0);
  other.load(1.0, saved);
  CHECK(places(hand.tracks(102.0, 12)) == places(other.tracks(2.0, 12)));
  const auto before = other.save(2.0);
  const auto refused = [&](std::vector<unsigned char> broken, const char* words) {
    try {
      other.load(3.0, broken);
      check::failed(__FILE__, __LINE__, "a broken state was taken");
    } catch (const ms::Error& error) {
      CHECK_EQUAL(error.status(), MS_ERROR_CONFIG);
      CHECK_CONTAINS(error.what(), words);
    }
    CHECK(other.save(2.0) == before);
  };
  refused({1, 2, 3}, "the saved hand is not a readable snapshot");
  refused({saved.begin(), saved.end() - 8}, "outside of the file");
  std::vector<unsigned char> changed = saved;
  const std::string text(changed.begin(), changed.end());
  changed[text.find("dots.marks") + 5] = 'x';
  refused(changed, "a saved hand holds no dots.marks of the shape");
  const double grid[] = {10, 10}, large[] = {200, 200};  // each fits, all of its points do not
  changed = saved;
  const auto* bytes = reinterpret_cast<const unsigned char*>(grid);
  const auto at = std::search(changed.begin(), changed.end(), bytes, bytes + sizeof grid);
  CHECK(at != changed.end());
  std::memcpy(&*at, large, sizeof large);
  refused(changed, "a saved hand holds a grid that does not fit");
  ms::Hand small({.rows = 2, .cols = 2, .capacity = 40});
  try {
    small.load(0, saved);
    check::failed(__FILE__, __LINE__, "more points than fit were taken");
  } catch (const ms::Error& error) {
    CHECK_CONTAINS(error.what(), "a saved hand holds no dots.ids");
  }
  ms_hand* plain = nullptr;
  CHECK_EQUAL(ms_hand_create(2, 2, 1.0, 16.0, 64, &plain), MS_OK);
  std::size_t room = 3;
  CHECK_EQUAL(ms_hand_save(plain, 0, changed.data(), &room), MS_ERROR_CONFIG);
  CHECK(room > 3);
  CHECK_EQUAL(ms_hand_load(plain, 0, nullptr, 0), MS_ERROR_CONFIG);
  ms_hand_destroy(plain);
}

TEST(a_field_pushes_what_rests_far_away_as_the_nearest_place_of_the_picture) {
  Field field;
  field.add(std::array<double, 8>{0, 1, 2, 3, 4, 5, 6, 7}, 2, 2);
  const auto steps = field.take(std::array<Point, 4>{{{1e30, 1e30}, {-1e30, 1e30}, {0.6, 0.4}, {0.1, -1e30}}});
  CHECK((steps == std::vector<Point>{{6, 7}, {4, 5}, {2, 3}, {0, 1}}));
}

TEST(a_hand_takes_calls_from_many_threads) {
  ms::Hand hand({.rows = 6, .cols = 6, .capacity = 200});
  std::atomic<bool> over{false};
  std::vector<std::thread> users;
  for (int user = 0; user < 3; ++user)
    users.emplace_back([&, user] {
      for (int i = 0; !over; ++i) {
        hand.press(user, 0.2 + 0.3 * user, 0.5, i);
        hand.move(user, 0.3 + 0.2 * user, 0.4, i + 0.5);
        hand.release(user);
        hand.steer(0.1 * user, 0);
        const ms::Point place{0.5, 0.1 * user};
        hand.add_static({&place, 1}), hand.remove({&place, 1});
      }
    });
  for (int chunk = 0; chunk < 200; ++chunk) CHECK(hand.tracks(chunk, 12).get() != nullptr);
  over = true;
  for (auto& user : users) user.join();
}

TEST(what_a_hand_cannot_do_is_refused) {
  const auto refuses = [](const std::string& words, auto&& work) {
    try {
      work();
    } catch (const ms::Error& error) {
      CHECK_EQUAL(error.status(), MS_ERROR_CONFIG);
      CHECK_CONTAINS(error.what(), words);
      return;
    }
    check::failed(__FILE__, __LINE__, "nothing was refused: " + words);
  };
  refuses("capacity of 1..10000", [] { ms::Hand({.capacity = 0}); });
  refuses("aspect must be", [] { ms::Hand({.aspect = 0}); });
  ms::Hand hand;
  refuses("not pixels", [&] { hand.press(1, 200, 100, 0); });
  refuses("not pixels", [&] { hand.move(1, NAN, 0, 0); });
  refuses("finite seconds", [&] { hand.press(1, 0, 0, INFINITY); });
  refuses("reach must be", [&] { hand.press(1, 0, 0, 0, -1); });
  refuses("-1..1", [&] { hand.steer(2, 0); });
  refuses("at least 2 points", [&] { hand.path(std::array{ms::Point{0, 0}}, 1); });
  refuses("0 or more rows", [&] { hand.grid(-1, 2); });
  refuses("1 or more RGB frames", [&] { hand.tracks(0, 0); });
}

int main(int count, char** arguments) {
  golden = count > 1 ? arguments[1] : "";
  return check::main(count - 1, arguments + 1);
}
