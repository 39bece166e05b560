using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Godwit.VfioUser.Bench;

// dotnet run -c Release --project bench/Godwit.VfioUser.Bench -- --filter '*'
//
// In this process, because the project that BenchmarkDotNet would generate inherits this repository's rules and does not build by them.
// Client and server are threads of one process here, which changes nothing of what goes over the socket.
IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance).AsDefault())
    .AddDiagnoser(MemoryDiagnoser.Default);
BenchmarkSwitcher.FromAssembly(typeof(Pair).Assembly).Run(args, config);
