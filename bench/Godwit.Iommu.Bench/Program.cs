using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Godwit.Iommu.Bench;

// dotnet run -c Release --project bench/Godwit.Iommu.Bench -- --filter '*'
// dotnet run -c Release --project bench/Godwit.Iommu.Bench -- --quick      seconds, without BenchmarkDotNet
//
// In this process, because the project that BenchmarkDotNet would generate inherits this repository's rules and does not build by them.
if (args is ["--quick"])
    return QuickRun.Go();
IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance).AsDefault())
    .AddDiagnoser(MemoryDiagnoser.Default);
BenchmarkSwitcher.FromAssembly(typeof(TranslateBenchmarks).Assembly).Run(args, config);
return 0;
