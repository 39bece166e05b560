using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Godwit.Iommu.Bench;

// dotnet run -c Release --project bench/Godwit.Iommu.Bench -- --filter '*'
// dotnet run -c Release --project bench/Godwit.Iommu.Bench -- --figures    a minute, without BenchmarkDotNet: each figure, and whether it meets its goal
// dotnet run -c Release --project bench/Godwit.Iommu.Bench -- --quick      the same in seconds; only goals of bytes can be missed
//
// In this process, because the project that BenchmarkDotNet would generate inherits this repository's rules and does not build by them.
if (args is ["--quick"] or ["--figures"])
    return new FigureRun(quick: args is ["--quick"]).Go() ? 0 : 1;
IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance).AsDefault())
    .AddDiagnoser(MemoryDiagnoser.Default);
BenchmarkSwitcher.FromAssembly(typeof(TranslateBenchmarks).Assembly).Run(args, config);
return 0;
