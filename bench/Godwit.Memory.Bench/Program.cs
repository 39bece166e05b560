using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Godwit.Memory.Bench;

// dotnet run -c Release --project bench/Godwit.Memory.Bench -- drain [MIB]      within a minute; 384 MiB unless told
// dotnet run -c Release --project bench/Godwit.Memory.Bench -- --filter '*'
if (args is ["drain", ..])
    return DrainRatios.Run((args.Length > 1 ? long.Parse(args[1], System.Globalization.CultureInfo.InvariantCulture) : 384) << 20);

// In this process, because the project that BenchmarkDotNet would generate inherits this repository's rules and does not build by them.
IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance).AsDefault())
    .AddDiagnoser(MemoryDiagnoser.Default)
    .AddColumn(new ThroughputColumn());
BenchmarkSwitcher.FromAssembly(typeof(ThroughputColumn).Assembly).Run(args, config);
return 0;
