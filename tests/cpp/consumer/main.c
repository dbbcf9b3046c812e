#include <ms_infer/ms_infer.h>
#include <stdio.h>

int main(void) {
    ms_stream_params params;
    ms_stream *stream = NULL;
    if (ms_stream_default_params(&params, sizeof params) != MS_OK) return 1;
    params.bundle = "no such bundle";
    if (ms_stream_create(&params, &stream) != MS_ERROR_BUNDLE || stream != NULL) return 1;
    printf("ms_infer %s from C: %s\n", ms_version(), ms_last_error());
    return 0;
}
