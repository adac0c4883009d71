#compdef kiln
# zsh completion for kiln
_kiln_build_options=(
  '*--input[fix the shape of an input]:NAME=SHAPE\:DTYPE:'
  '*--min[smallest shape of an input]:NAME=SHAPE:'
  '*--opt[shape to plan for]:NAME=SHAPE:'
  '*--max[largest shape of an input]:NAME=SHAPE:'
  '*--profile[shapes of one optimization profile]:NAME=MIN\:OPT\:MAX:'
  '*--constant[TorchScript: fix an argument that is no tensor]:NAME=VALUE:'
  '--method[TorchScript: the method to compile]:name:'
  '--target[what to build for]:target:(cpu cpu\:avx512 cpu\:avx2 cpu\:scalar cuda cuda\:sm_80 cuda\:sm_86 cuda\:sm_89 cuda\:sm_90 cuda\:sm_100 reference)'
  '--precision[arithmetic]:precision:(fp32 tf32 fp16 bf16 int8)'
  '--allow-host-fallback[operators without a GPU kernel run on the CPU]'
  '--calibration-cache[int8 ranges that Python measured]:file:_files'
  '--tune[time candidates within this budget]:seconds:'
  '--cache[tactic cache]:file:_files'
  '--threads[threads that tuning assumes]:threads:'
  '*--plugin[custom operators and rules]:file:_files'
  '--help[help]'
)
_kiln() {
  if (( CURRENT == 2 )); then
    local commands=(
      'build:compile a model file into an engine file'
      'run:run an engine once'
      'bench:measure an engine'
      'inspect:show graph, plan, memory or what was refused'
      'diff:compare with the reference backend'
      'ops:list the operators'
      'refit:give an engine other weights, or take them away'
      'tune:choose kernels anew by timing them here'
      'torchtrtc:compile a TorchScript file by the flags of torchtrtc'
    )
    _describe command commands
    return
  fi
  case $words[2] in
    build) _arguments $_kiln_build_options '(-o --output)'{-o,--output}'[file to write]:file:_files' '*:file:_files' ;;
    run) _arguments '*--plugin[custom operators and rules]:file:_files' '*--input[one input]:NAME=FILE.npy:_files' '--output[folder for outputs]:folder:_files -/' '--threads[threads]:n:' '--help[help]' '*:file:_files' ;;
    bench) _arguments '*--plugin[custom operators and rules]:file:_files' '*--input[shape or data]:NAME=SHAPE:' '--seconds[how long]:seconds:' '--threads[threads]:n:' '--json[write figures]:file:_files' '--profile[time each step]' '--layers[the same, slowest first]' '--device[which GPU]:n:' '--help[help]' '*:file:_files' ;;
    inspect) _arguments $_kiln_build_options --summary --graph --plan --memory --why '--html[write a page]:file:_files' '*:file:_files' ;;
    diff) _arguments $_kiln_build_options '--layers[compare every value]' '*--data[data of an input]:NAME=FILE.npy:_files' '--tolerance[allowed error]:tolerance:' '*:file:_files' ;;
    ops) _arguments '--json[as JSON]' '--help[help]' ;;
    refit) _arguments '(-o --output)'{-o,--output}'[file to write]:file:_files' '(-l --list)'{-l,--list}'[the weights of an engine]' '--strip-weights[take the weights out]' '--help[help]' '*:file:_files' ;;
    tune) _arguments '(-o --output)'{-o,--output}'[file to write]:file:_files' '--tune[time candidates within this budget]:seconds:' '--cache[tactic cache]:file:_files' '--threads[that tuning assumes]:n:' '--help[help]' '*:file:_files' ;;
    torchtrtc) _arguments '*'{-p,--enable-precision}'[arithmetic]:precision:(f32 f16 i8)' '(-d --device-type)'{-d,--device-type}'[device]:device:(gpu cpu)' '--calibration-cache-file[int8 ranges that Python measured]:file:_files' '--gpu-id[which GPU]:n:' '--disable-tf32[full f32 products]' '--check-method-support[only tell what is missing]:method:' '--embed-engine[put an engine into a TorchScript file]' '--save-engine[write an engine file]' '--atol[tolerance]:x:' '--rtol[tolerance]:x:' '--no-threshold-check[no comparison]' '--tune[time candidates within this budget]:seconds:' '--cache[tactic cache]:file:_files' '--help[help]' '*:file:_files' ;;
  esac
}
_kiln "$@"
