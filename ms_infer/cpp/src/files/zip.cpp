#include "files/zip.hpp"

#include <array>
#include <cstdint>

#include "error.hpp"

namespace ms_infer {

namespace {

[[noreturn]] void damaged() { fail(MS_ERROR_CONFIG, "not an .npz of plain arrays: the archive is damaged"); }

std::uint32_t crc32(std::span<const unsigned char> bytes) {
  static const auto table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
      made[i] = value;
    }
    return made;
  }();
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const auto byte : bytes) crc = table[(crc ^ byte) & 255] ^ crc >> 8;
  return ~crc;
}

// Reads DEFLATE (RFC 1951): bits from the lowest on, codes from the highest.
class Inflate {
 public:
  Inflate(std::span<const unsigned char> packed, std::size_t size) : packed_(packed), size_(size) { out_.reserve(size); }

  Bytes run() {
    for (bool last = false; !last;) {
      last = bits(1);
      const auto kind = bits(2);
      if (kind == 0) stored();
      if (kind == 1) fixed();
      if (kind == 2) dynamic();
      if (kind == 3) damaged();
    }
    if (out_.size() != size_) damaged();
    return std::move(out_);
  }

 private:
  // Canonical Huffman codes: how many there are of each length, and their symbols in order.
  struct Codes {
    std::array<int, 16> counts{};
    std::vector<int> symbols;

    explicit Codes(std::span<const int> lengths) {
      for (const int length : lengths) ++counts[static_cast<std::size_t>(length)];
      counts[0] = 0;
      for (int length = 1; length < 16; ++length)
        for (std::size_t symbol = 0; symbol < lengths.size(); ++symbol)
          if (lengths[symbol] == length) symbols.push_back(static_cast<int>(symbol));
    }
  };

  unsigned bits(int count) {
    unsigned value = 0;
    for (int i = 0; i < count; ++i, ++place_) {
      if (place_ / 8 >= packed_.size()) damaged();
      value |= unsigned(packed_[place_ / 8] >> place_ % 8 & 1) << i;
    }
    return value;
  }

  int symbol(const Codes& codes) {
    int code = 0, first = 0, index = 0;
    for (std::size_t length = 1; length < 16; ++length) {
      code |= static_cast<int>(bits(1));
      const int count = codes.counts[length];
      if (code - first < count) return codes.symbols[static_cast<std::size_t>(index + code - first)];
      index += count, first = (first + count) << 1, code <<= 1;
    }
    damaged();
  }

  void put(unsigned char byte) {
    if (out_.size() >= size_) damaged();
    out_.push_back(byte);
  }

  void stored() {
    place_ = (place_ + 7) / 8 * 8;
    const auto length = bits(16), inverse = bits(16);
    if ((length ^ inverse) != 0xFFFF) damaged();
    for (unsigned i = 0; i < length; ++i) put(static_cast<unsigned char>(bits(8)));
  }

  void fixed() {
    std::array<int, 288> lengths{};
    for (std::size_t i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    std::array<int, 30> distances{};
    distances.fill(5);
    block(Codes(lengths), Codes(distances));
  }

  void dynamic() {
    static constexpr std::array<std::size_t, 19> kOrder{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const std::size_t literals = bits(5) + 257, distances = bits(5) + 1, given = bits(4) + 4;
    std::array<int, 19> short_lengths{};
    for (std::size_t i = 0; i < given; ++i) short_lengths[kOrder[i]] = static_cast<int>(bits(3));
    const Codes codes(short_lengths);
    std::vector<int> lengths;
    while (lengths.size() < literals + distances) {
      const int code = symbol(codes);
      if (code < 16) {
        lengths.push_back(code);
        continue;
      }
      if (code == 16 && lengths.empty()) damaged();
      const int repeated = code == 16 ? lengths.back() : 0;
      const unsigned times = code == 16 ? 3 + bits(2) : code == 17 ? 3 + bits(3) : 11 + bits(7);
      lengths.insert(lengths.end(), times, repeated);
    }
    if (lengths.size() != literals + distances || literals > 286) damaged();
    const std::span<const int> all(lengths);
    block(Codes(all.first(literals)), Codes(all.subspan(literals)));
  }

  void block(const Codes& literals, const Codes& distances) {
    static constexpr std::array<int, 29> kLength{3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                                 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static constexpr std::array<int, 29> kLengthBits{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                     2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static constexpr std::array<int, 30> kDistance{1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                                   193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (int code = symbol(literals); code != 256; code = symbol(literals)) {
      if (code < 256) {
        put(static_cast<unsigned char>(code));
        continue;
      }
      const auto at = static_cast<std::size_t>(code - 257);
      if (at >= kLength.size()) damaged();
      const auto length = static_cast<unsigned>(kLength[at]) + bits(kLengthBits[at]);
      const auto far = static_cast<std::size_t>(symbol(distances));
      if (far >= kDistance.size()) damaged();
      const std::size_t back = static_cast<std::size_t>(kDistance[far]) + bits(far < 4 ? 0 : static_cast<int>(far / 2) - 1);
      if (back > out_.size()) damaged();
      for (unsigned i = 0; i < length; ++i) put(out_[out_.size() - back]);
    }
  }

  std::span<const unsigned char> packed_;
  std::size_t size_, place_ = 0;  // in bits
  Bytes out_;
};

// Little-endian numbers of a file.
class ZipReader {
 public:
  explicit ZipReader(std::span<const unsigned char> file) : file_(file) {}
  std::uint32_t number(std::size_t at, int bytes) const {
    if (at > file_.size() || file_.size() - at < static_cast<std::size_t>(bytes)) damaged();
    std::uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= std::uint32_t{file_[at + static_cast<std::size_t>(i)]} << 8 * i;
    return value;
  }
  std::span<const unsigned char> part(std::size_t at, std::size_t size) const {
    if (at > file_.size() || file_.size() - at < size) damaged();
    return file_.subspan(at, size);
  }

 private:
  std::span<const unsigned char> file_;
};

constexpr std::uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;

// Where the directory ends: the newest such mark, before a comment.
std::size_t end_of_directory(const ZipReader& read, std::size_t size) {
  for (std::size_t back = 22; back <= size && back < 66000; ++back)
    if (read.number(size - back, 4) == kEnd) return size - back;
  damaged();
}

void append(Bytes& out, std::initializer_list<std::pair<std::uint32_t, int>> numbers) {
  for (const auto& [value, bytes] : numbers)
    for (int i = 0; i < bytes; ++i) out.push_back(static_cast<unsigned char>(value >> 8 * i));
}

}  // namespace

std::map<std::string, Bytes> read_zip(std::span<const unsigned char> file, std::size_t limit) {
  const ZipReader read(file);
  const auto end = end_of_directory(read, file.size());
  std::map<std::string, Bytes> entries;
  std::size_t at = read.number(end + 16, 4), total = 0;
  for (auto left = read.number(end + 10, 2); left > 0; --left) {
    if (read.number(at, 4) != kCentral) damaged();
    const auto method = read.number(at + 10, 2), crc = read.number(at + 16, 4), packed = read.number(at + 20, 4),
               size = read.number(at + 24, 4), name = read.number(at + 28, 2), local = read.number(at + 42, 4);
    total += size;
    require(total <= limit, MS_ERROR_CONFIG, "the archive unpacks to more than ", limit, " bytes");
    const auto words = read.part(at + 46, name);
    if (read.number(local, 4) != kLocal || (method != 0 && method != 8)) damaged();
    const auto data = read.part(local + 30 + read.number(local + 26, 2) + read.number(local + 28, 2), packed);
    Bytes content = method == 0 ? Bytes(data.begin(), data.end()) : Inflate(data, size).run();
    if (content.size() != size || crc32(content) != crc) damaged();
    entries[std::string(words.begin(), words.end())] = std::move(content);
    at += 46 + name + read.number(at + 30, 2) + read.number(at + 32, 2);
  }
  return entries;
}

Bytes zip_bytes(const std::map<std::string, Bytes>& entries) {
  Bytes out, directory;
  for (const auto& [name, content] : entries) {
    const auto offset = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(content.size());
    const auto crc = crc32(content);
    const auto length = static_cast<std::uint32_t>(name.size());
    constexpr std::uint32_t kDate = 33;  // 1980-01-01, the first that a zip can say
    append(out, {{kLocal, 4}, {20, 2}, {0, 2}, {0, 2}, {0, 2}, {kDate, 2}, {crc, 4}, {size, 4}, {size, 4}, {length, 2}, {0, 2}});
    out.insert(out.end(), name.begin(), name.end());
    out.insert(out.end(), content.begin(), content.end());
    append(directory, {{kCentral, 4}, {20, 2}, {20, 2}, {0, 2}, {0, 2}, {0, 2}, {kDate, 2}, {crc, 4}, {size, 4}, {size, 4},
                       {length, 2}, {0, 2}, {0, 2}, {0, 2}, {0, 2}, {0, 4}, {offset, 4}});
    directory.insert(directory.end(), name.begin(), name.end());
  }
  const auto begin = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(directory.size());
  const auto count = static_cast<std::uint32_t>(entries.size());
  out.insert(out.end(), directory.begin(), directory.end());
  append(out, {{kEnd, 4}, {0, 2}, {0, 2}, {count, 2}, {count, 2}, {size, 4}, {begin, 4}, {0, 2}});
  return out;
}

}  // namespace ms_infer
