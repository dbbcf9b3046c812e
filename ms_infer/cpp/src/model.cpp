#include "model.hpp"

#include <chrono>

#include "log.hpp"
#include "bundle/sha256.hpp"

namespace ms_infer {

std::shared_ptr<Model> Model::open(const std::filesystem::path& bundle, const EngineOptions& options,
                                   const Progress& progress) {
  const auto began = std::chrono::steady_clock::now();
  const Progress told = [&](std::string_view what, double done) {
    log(LogLevel::debug, "loading ", what);
    progress(what, done);
  };
  told("manifest", 0);
  auto model = std::make_shared<Model>();
  model->manifest_ = std::make_shared<const Manifest>(Manifest::load(bundle));
  ChosenEngine chosen = open_engine(*model->manifest_, options);
  model->spec_ = chosen.spec;
  model->engine_ = std::move(chosen.model);
  model->label_ = model->engine_->name() + " " + model->engine_->precision();
  model->digest_ = sha256(model->config().sorted_json + model->label_ + model->manifest_->weights);
  model->engine_->load(told);
  progress("done", 1);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  log(LogLevel::info, "opened ", bundle.string(), " with ", model->label_, " in ", took.count(), " ms");
  return model;
}

}  // namespace ms_infer
