/* The smallest host program, in pure C: three chunks from a bundle, and what each took. */
#include <stdio.h>

#include "ms_infer/ms_infer.h"

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, ms_last_error());
    return 1;
}

int main(int count, char **arguments) {
    ms_stream_params params;
    ms_stream *stream = NULL;
    ms_chunk chunk;
    int i;
    if (count != 2) {
        fprintf(stderr, "usage: embed BUNDLE\n");
        return 2;
    }
    ms_stream_default_params(&params, sizeof params);
    chunk.struct_size = sizeof chunk;
    params.bundle = arguments[1];
    if (ms_stream_create(&params, &stream) != MS_OK) return failed("create");
    for (i = 0; i < 3; ++i) {
        if (ms_stream_step(stream, &chunk) != MS_OK) return failed("step");
        printf("chunk %d: %d frames of %d x %d in %.1f ms, first pixel %d %d %d\n", (int)chunk.index, chunk.rgb_frames,
               chunk.width, chunk.height, chunk.chunk_ms, chunk.frames[0], chunk.frames[1], chunk.frames[2]);
    }
    ms_stream_destroy(stream);
    return 0;
}
