#include <ms_infer/ms_infer.h>
#include <stdio.h>

/* One chunk of a bundle. */
static int one_chunk(const char *bundle, ms_model_params *params) {
    ms_stream *stream = NULL;
    ms_chunk chunk = {.struct_size = sizeof chunk};
    params->bundle = bundle;
    if (ms_stream_open(params, NULL, &stream) != MS_OK || ms_stream_step(stream, &chunk) != MS_OK) {
        fprintf(stderr, "%s\n", ms_last_error());
        return 1;
    }
    printf("chunk %d: %d frames\n", (int)chunk.index, chunk.rgb_frames);
    ms_stream_destroy(stream);
    return 0;
}

int main(int count, char **arguments) {
    ms_model_params params = {.struct_size = sizeof params};
    ms_stream *stream = NULL;
    if (count > 1) return one_chunk(arguments[1], &params);
    params.bundle = "no such bundle";
    if (ms_stream_open(&params, NULL, &stream) != MS_ERROR_BUNDLE || stream != NULL) return 1;
    printf("ms_infer %s from C: %s\n", ms_version(), ms_last_error());
    return 0;
}
