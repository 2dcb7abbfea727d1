# Shell functions shared by the benches beside this file, which source it after lib.sh. It does nothing by itself.
# shellcheck shell=bash

# bench_folder: where what benches need and leave is kept.
bench_folder() {
    local folder
    folder=$(target_dir)/bench
    mkdir -p "$folder"
    echo "$folder"
}

# measured_binary: the program that is measured: that of MESH_INIT_BIN, or the static release, built here.
measured_binary() { realpath -e "${MESH_INIT_BIN:-$(static_release)}"; }

# compile NAME...: makes programs of benches/ in the folder of benches.
compile() {
    local name folder
    folder=$(bench_folder)
    need_packages cc=gcc /usr/include/stdio.h=libc6-dev
    for name; do
        gcc -static -O2 -Wall -Wextra -pthread -o "$folder/$name" "${project:?}/benches/$name.c"
    done
}

# excluding COUNT: a policy, as --config reads it, with that many networks excluded: every other host of 100.64.0.0/10, no two
# of which are one network.
excluding() {
    awk -v count="$1" 'BEGIN {
        printf "{ \"outbound\": { \"excludeCidrs\": ["
        for (i = 0; i < count; i++) {
            host = 2 * i
            printf "%s\"100.%d.%d.%d/32\"", i ? ", " : "", 64 + int(host / 65536), int(host / 256) % 256, host % 256
        }
        print "] } }"
    }'
}
