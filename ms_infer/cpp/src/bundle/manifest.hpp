// The manifest of a bundle, checked before anything in the folder is used: bundle/manifest.py in C++.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "config.hpp"
#include "files/files.hpp"
#include "files/tensors.hpp"

namespace ms_infer {

using NamePairs = std::vector<std::pair<std::string, std::string>>;

// One exported graph.
struct StageSpec {
  std::string name;
  std::vector<TensorSpec> inputs, outputs;
  NamePairs aliases;  // (input, output) written in place
  NamePairs states;   // (input, output): the output is the next chunk's input
  bool precise = false;

  const TensorSpec* find(const std::string& tensor) const;
};

struct FileSpec {
  std::int64_t bytes = 0;
  std::string sha256;
};

struct EngineSpec {
  std::string name, kind, arch, version, dtype;
  std::map<std::string, std::string> stages;  // stage -> file
  std::string graphs;                         // precision of the graphs it was built from: the stages' description
  std::string library;                        // "tensorrt" or "tensorrt_rtx"; "" for others
};

class Manifest {
 public:
  std::filesystem::path folder;
  StreamConfig config;
  std::string weights;  // sha256 of the checkpoint
  bool writes_per_frame = false;
  std::map<std::string, std::map<std::string, StageSpec>> stages;  // graph precision -> stage
  std::vector<EngineSpec> engines;
  std::map<std::string, FileSpec> files;

  // Reads and checks; MS_ERROR_BUNDLE: no bundle, a newer format, a path that leaves the folder, a missing file.
  static Manifest load(const std::filesystem::path& folder);

  // Content of a file of the bundle, hashed: exactly what the manifest promises, or MS_ERROR_BUNDLE.
  Bytes read(const std::string& file) const;
  // Engines of one kind; nullptr when there are none.
  const EngineSpec* engine(const std::string& kind) const;

 private:
  void check_files() const;
};

}  // namespace ms_infer
