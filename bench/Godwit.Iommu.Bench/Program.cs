using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Godwit.Iommu.Bench;

// dotnet run -c Release --project bench/Godwit.Iommu.Bench -- --filter '*'
//
// In this process, because the project that BenchmarkDotNet would generate inherits this repository's rules and does not build by them.
IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance).AsDefault())
    .AddDiagnoser(MemoryDiagnoser.Default);
BenchmarkSwitcher.FromAssembly(typeof(TranslateBenchmarks).Assembly).Run(args, config);
