# bash completion for kiln
_kiln() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
  local build="--input --min --opt --max --profile --constant --method --target --precision --tune --cache --threads --allow-host-fallback --calibration-cache --help"
  local words
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W "build run bench inspect diff ops refit tune torchtrtc --help --version" -- "$cur")
    return
  fi
  case $prev in
    --target) mapfile -t COMPREPLY < <(compgen -W "cpu cpu:avx512 cpu:avx2 cpu:scalar cuda cuda:sm_80 cuda:sm_86 cuda:sm_89 cuda:sm_90 cuda:sm_100 reference" -- "$cur"); return ;;
    --plugin) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --precision) mapfile -t COMPREPLY < <(compgen -W "fp32 tf32 fp16 bf16 int8" -- "$cur"); return ;;
  esac
  case $command in
    build) words="--output --strip-weights $build" ;;
    run) words="--input --output --threads --help" ;;
    bench) words="--input --seconds --threads --json --profile --layers --device --help" ;;
    inspect) words="--summary --graph --plan --memory --why --html $build" ;;
    diff) words="--layers --data --tolerance $build" ;;
    ops) words="--json --help" ;;
    refit) words="--output --list --strip-weights --help" ;;
    tune) words="--output --tune --cache --threads --help" ;;
    torchtrtc) words="--verbose --info --warnings --enable-precision --calibration-cache-file --device-type --gpu-id --disable-tf32 --check-method-support --embed-engine --save-engine --atol --rtol --no-threshold-check --custom-torch-ops --custom-converters --tune --cache --help" ;;
  esac
  words="$words --plugin"
  case $cur in
    -*) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur") ;;
    *) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
  esac
}
complete -o filenames -F _kiln kiln
