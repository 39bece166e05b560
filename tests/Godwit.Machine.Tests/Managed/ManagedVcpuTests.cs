using System.Buffers;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

public sealed class ManagedVcpuTests : IDisposable
{
    private static readonly Gpa Counter = new(0x20_0000);
    private static readonly Gpa Device = new(0xC000_0000);

    private readonly RamFixture _ram = new();
    private readonly List<ManagedVcpu> _vcpus = [];

    public void Dispose()
    {
        foreach (ManagedVcpu vcpu in _vcpus)
            vcpu.Dispose();
        _ram.Dispose();
    }

    [Fact]
    public void The_barrier_holds_under_busy_MMIO_and_the_program_goes_on_where_it_was()
    {
        var device = new CountingDevice();
        Place(device);
        ManagedVcpu vcpu = Create(new Program(cpu =>
        {
            ulong n = cpu.Registers.General[0]++;
            cpu.WriteMmio32(Device, (uint)n);
            cpu.Bus.Store(Counter, n + 1);
        }));

        for (int round = 0; round < 200; round++)
        {
            long before = device.Writes;
            vcpu.Run();
            device.WaitForMore(before + 10);
            vcpu.RequestStop();
            Assert.True(vcpu.WaitStopped(Deadline.Generous));

            // Nothing half done, and nothing moves any more.
            long writes = device.Writes;
            Assert.Equal((ulong)writes, vcpu.Registers.General[0]);
            Assert.Equal((ulong)writes, _ram.Bus.Load<ulong>(Counter));
            Assert.Equal((uint)writes - 1, device.Last);
            Thread.Yield();
            Assert.Equal(writes, device.Writes);
        }
    }

    [Fact]
    public void All_writes_before_the_barrier_are_marked_dirty()
    {
        ManagedVcpu vcpu = Create(new Program(cpu =>
        {
            ulong n = cpu.Registers.General[0]++;
            cpu.Bus.Store(BoardLayout.HighRamBase + (n % 1000 * 4096), n); // high RAM: page number is not the GPA's
        }));
        ulong[] words = new ulong[(_ram.Ram.PageCount + 63) / 64];
        _ram.Ram.Dirty.Start();
        _ram.Ram.Dirty.Drain(default, words);

        vcpu.Run();
        SpinWait.SpinUntil(() => _ram.Bus.Load<ulong>(BoardLayout.HighRamBase + (999 * 4096)) != 0, Deadline.Generous);
        vcpu.RequestStop();
        Assert.True(vcpu.WaitStopped(Deadline.Generous));

        ulong firstHigh = _ram.Layout.LowRamSize / 4096;
        ulong marked = _ram.Ram.Dirty.Drain(default, words);
        Assert.Equal(1000UL, marked);
        for (ulong page = firstHigh; page < firstHigh + 1000; page++)
            Assert.True((words[page / 64] >> (int)(page % 64) & 1) != 0, $"page {page}");
        _ram.Ram.Dirty.Stop();
    }

    [Fact]
    public void A_vCPU_that_does_not_stop_in_time_times_the_barrier_out_and_all_run_on()
    {
        var device = new BlockingDevice();
        Place(device);
        ManagedVcpu stuck = Create(new Program(cpu =>
        {
            cpu.WriteMmio32(Device, 1);
            cpu.Bus.Store(Counter, ++cpu.Registers.General[0]);
        }));
        ManagedVcpu free = Create(new Program(cpu => cpu.Bus.Store(Counter + 8, ++cpu.Registers.General[0])), apicId: 1);
        var set = new VcpuSet([free, stuck], TimeProvider.System);
        set.Run();
        device.Entered.Wait("the MMIO exit");

        var timeout = Assert.Throws<TimeoutException>(() => set.Stop(TimeSpan.FromMilliseconds(20)));
        Assert.Contains("vCPU 0", timeout.Message, StringComparison.Ordinal);

        ulong was = _ram.Bus.Load<ulong>(Counter + 8);
        Assert.True(SpinWait.SpinUntil(() => _ram.Bus.Load<ulong>(Counter + 8) > was, Deadline.Generous), "the other one runs on");
        device.LetGo.Set();
        Assert.True(SpinWait.SpinUntil(() => _ram.Bus.Load<ulong>(Counter) > 2, Deadline.Generous), "the stuck one runs on");
        set.Stop(Deadline.Generous);
    }

    [Theory]
    [InlineData(50, 10)]
    [InlineData(99, 990)]
    public void A_throttled_vCPU_rests_after_each_slice_and_stops_at_once_all_the_same(int percent, int rest)
    {
        var time = new ManualTime();
        // Each step takes a millisecond, and nothing else takes any.
        ManagedVcpu vcpu = Create(
            new Program(cpu =>
            {
                cpu.Bus.Store(Counter, ++cpu.Registers.General[0]);
                time.Advance(TimeSpan.FromMilliseconds(1));
            }),
            time: time);
        vcpu.Throttle(percent);
        vcpu.Run();
        for (ulong slice = 1; slice <= 3; slice++)
        {
            Assert.True(time.Armed.Wait(Deadline.Generous), "the vCPU does not rest");
            Assert.Equal(slice * 10, _ram.Bus.Load<ulong>(Counter));
            if (slice < 3)
            {
                time.Advance(TimeSpan.FromMilliseconds(rest));
            }
        }

        // It rests now, and no time passes.
        vcpu.RequestStop();
        Assert.True(SpinWait.SpinUntil(() => vcpu.WaitStopped(TimeSpan.Zero), Deadline.Generous), "it does not stop while it rests");
        Assert.Equal(30UL, _ram.Bus.Load<ulong>(Counter));

        vcpu.Throttle(0);
        vcpu.Run();
        Assert.True(SpinWait.SpinUntil(() => _ram.Bus.Load<ulong>(Counter) > 1000, Deadline.Generous), "it still rests");
        Assert.Throws<ArgumentOutOfRangeException>(() => vcpu.Throttle(100));
        Assert.Throws<ArgumentOutOfRangeException>(() => vcpu.Throttle(-1));
    }

    [Theory]
    [InlineData(50, 35, 35)]
    [InlineData(50, 100, 100)]
    [InlineData(50, 60_000, 990)] // a step that waited for a device, say
    [InlineData(99, 10, 990)]
    [InlineData(99, 100, 990)]
    public void A_step_longer_than_a_slice_is_paid_for_whole_within_bounds(int throttle, int step, int rest)
    {
        var time = new ManualTime();
        ManagedVcpu vcpu = Create(
            new Program(cpu =>
            {
                cpu.Bus.Store(Counter, ++cpu.Registers.General[0]);
                time.Advance(TimeSpan.FromMilliseconds(step));
            }),
            time: time);
        vcpu.Throttle(throttle);
        vcpu.Run();
        Assert.True(time.Armed.Wait(Deadline.Generous), "the vCPU does not rest");
        time.Advance(TimeSpan.FromMilliseconds(rest - 1));
        Assert.Equal(1UL, _ram.Bus.Load<ulong>(Counter));
        time.Advance(TimeSpan.FromMilliseconds(1));
        Assert.True(time.Armed.Wait(Deadline.Generous), "the vCPU does not go on");
        Assert.Equal(2UL, _ram.Bus.Load<ulong>(Counter));
    }

    [Fact]
    public void A_throttled_vCPU_that_halts_before_its_slice_ends_rests_when_it_has_executed_one_in_all()
    {
        var time = new ManualTime();
        using var taken = new SemaphoreSlim(0);
        // Each interrupt takes a millisecond, and nothing else takes any.
        ManagedVcpu vcpu = Create(
            new Program(
                cpu =>
                {
                    cpu.Registers.InterruptsEnabled = true;
                    cpu.Halt();
                },
                (cpu, _) =>
                {
                    cpu.Bus.Store(Counter, ++cpu.Registers.General[0]);
                    time.Advance(TimeSpan.FromMilliseconds(1));
                    taken.Release();
                }),
            time: time);
        vcpu.Throttle(50);
        vcpu.Run();
        for (ulong slice = 1; slice <= 3; slice++)
        {
            while (_ram.Bus.Load<ulong>(Counter) < slice * 10)
            {
                Assert.True(SpinWait.SpinUntil(() => vcpu.IsResting && vcpu.Registers.Halted, Deadline.Generous), "it does not halt");
                time.Advance(TimeSpan.FromMilliseconds(7)); // not its own
                vcpu.Interrupt(0x40);
                taken.Wait("the interrupt");
            }

            vcpu.Interrupt(0x41);
            Assert.True(time.Armed.Wait(Deadline.Generous), "the throttled vCPU goes on");
            Assert.Equal(slice * 10, _ram.Bus.Load<ulong>(Counter));
            time.Advance(TimeSpan.FromMilliseconds(10));
            taken.Wait("the interrupt that waited");
        }
    }

    [Fact]
    public void A_halted_vCPU_wakes_for_an_interrupt_and_the_handler_runs_with_interrupts_disabled()
    {
        using var taken = new SemaphoreSlim(0);
        var vectors = new List<byte>();
        ManagedVcpu vcpu = Create(new Program(
            cpu =>
            {
                cpu.Registers.InterruptsEnabled = true;
                cpu.Halt();
            },
            (cpu, vector) =>
            {
                Assert.False(cpu.Registers.InterruptsEnabled);
                vectors.Add(vector);
                taken.Release();
            }));
        vcpu.Run();
        for (int i = 0; i < 1000; i++)
        {
            vcpu.Interrupt((byte)(0x20 + (i % 200)));
            taken.Wait("the interrupt");
        }

        Assert.Equal(1000, vectors.Count);
        Assert.Equal((byte)(0x20 + (999 % 200)), vectors[^1]);
    }

    [Fact]
    public void Interrupts_wait_while_the_vCPU_is_stopped_and_while_they_are_disabled()
    {
        using var taken = new SemaphoreSlim(0);
        ManagedVcpu vcpu = Create(new Program(
            cpu =>
            {
                ulong step = cpu.Registers.General[0]++;
                cpu.Registers.InterruptsEnabled = step >= 1000;
            },
            (cpu, _) =>
            {
                Assert.True(cpu.Registers.General[0] > 1000);
                taken.Release();
            }));
        vcpu.Interrupt(0x30);
        vcpu.Run();
        taken.Wait("the interrupt after it was enabled");
    }

    [Fact]
    public void The_guest_clock_counts_run_time_only()
    {
        var time = new ManualTime();
        using var wokeAt = new SemaphoreSlim(0);
        ulong seen = 0;
        ManagedVcpu vcpu = Create(
            new Program(cpu =>
            {
                if (cpu.Registers.General[0]++ == 0)
                {
                    cpu.Halt(until: 5_000_000); // 5 ms of guest time
                    return;
                }

                seen = cpu.Clock;
                wokeAt.Release();
                cpu.Halt();
            }),
            time: time);

        vcpu.Run();
        time.Armed.Wait("the halt");
        time.Advance(TimeSpan.FromMilliseconds(3));
        Stop(vcpu, time);
        time.Advance(TimeSpan.FromHours(1)); // paused: the guest sees nothing of it
        Drain(time.Armed);
        vcpu.Run();
        time.Armed.Wait("the halt after the pause");
        Assert.Equal(0, wokeAt.CurrentCount);
        time.Advance(TimeSpan.FromMilliseconds(2));
        wokeAt.Wait("the timer");
        Assert.Equal(5_000_000UL, seen);
        Stop(vcpu, time);
        Assert.Equal(5_000_000UL, vcpu.Registers.ClockBase);
    }

    [Fact]
    public void Another_vCPU_goes_on_from_a_saved_state()
    {
        var program = new Program(cpu =>
        {
            ulong n = ++cpu.Registers.General[0];
            cpu.Registers.General[1] += n * n;
            cpu.Registers.ProgramCounter = n;
        });
        ManagedVcpu first = Create(program);
        first.Run();
        SpinWait.SpinUntil(() => first.Registers.ProgramCounter > 100, Deadline.Generous);
        first.RequestStop();
        Assert.True(first.WaitStopped(Deadline.Generous));
        first.Interrupt(0x55);
        var state = new ArrayBufferWriter<byte>();
        first.Save(state);
        ulong reached = first.Registers.ProgramCounter;

        ManagedVcpu second = Create(program);
        second.Load(second.StateVersion, state.WrittenSpan);
        Assert.True(second.Registers.AnyRequested);
        Assert.Equal(first.Registers.ClockBase, second.Registers.ClockBase);
        second.Run();
        SpinWait.SpinUntil(() => second.Registers.ProgramCounter > reached + 100, Deadline.Generous);
        second.RequestStop();
        Assert.True(second.WaitStopped(Deadline.Generous));
        ulong last = second.Registers.General[0];
        // What is divided passes 64 bits after two million steps, which a starved test thread lets it execute.
        Assert.Equal((ulong)((UInt128)last * (last + 1) * ((2 * (UInt128)last) + 1) / 6), second.Registers.General[1]);
    }

    [Fact]
    public void State_of_a_vCPU_that_executes_is_neither_saved_nor_loaded()
    {
        ManagedVcpu vcpu = Create(new Program(cpu => cpu.Registers.General[0]++));
        var state = new ArrayBufferWriter<byte>();
        vcpu.Save(state);
        vcpu.Run();
        SpinWait.SpinUntil(() => vcpu.Registers.General[0] > 0, Deadline.Generous);
        Assert.Throws<InvalidOperationException>(() => vcpu.Save(new ArrayBufferWriter<byte>()));
        Assert.Throws<InvalidOperationException>(() => vcpu.Load(1, state.WrittenSpan));
    }

    [Fact]
    public void Whatever_a_program_throws_is_a_panic_with_its_text_and_never_runs_again()
    {
        using var told = new SemaphoreSlim(0);
        ManagedVcpu vcpu = Create(new Program(cpu => cpu.Bus.Load<ulong>(new Gpa(0xB000_0000))), panicked: _ => told.Release());
        vcpu.Run();
        told.Wait("the panic");
        Assert.Contains("no RAM at gpa 0xb0000000", vcpu.PanicText, StringComparison.Ordinal);
        vcpu.Run();
        // It is told of before its thread rests.
        Assert.True(vcpu.WaitStopped(Deadline.Generous));

        // It stays dead in another place.
        var state = new ArrayBufferWriter<byte>();
        vcpu.Save(state);
        ManagedVcpu other = Create(new Program(_ => { }));
        other.Load(1, state.WrittenSpan);
        Assert.NotNull(other.PanicText);
    }

    /// <summary>
    /// What a pause or a migration costs a large machine whose vCPUs sleep: nothing is woken to be stopped, nor to be let run again. An interrupt
    /// for a stopped one waits until it runs, and then wakes it alone.
    /// </summary>
    [Fact]
    public void Halted_vCPUs_are_stopped_and_let_run_again_without_being_woken()
    {
        const int Count = 300;
        using var halting = new CountdownEvent(Count);
        using var taken = new SemaphoreSlim(0);
        var program = new Program(
            cpu =>
            {
                cpu.Registers.InterruptsEnabled = true;
                cpu.Halt();
                halting.Signal(); // once each: a second step would be one too many
            },
            (cpu, vector) =>
            {
                Assert.Equal((7u, 0x41), (cpu.ApicId, vector));
                cpu.Halt();
                taken.Release();
            });
        var set = new VcpuSet([.. Enumerable.Range(0, Count).Select(id => Create(program, (uint)id))], TimeProvider.System);
        set.Run();
        Assert.True(halting.Wait(Deadline.Generous));
        set.Stop(Deadline.Generous); // some may have been on their way into the halt

        long wakes = _vcpus.Sum(vcpu => vcpu.Wakes);
        for (int round = 0; round < 20; round++)
        {
            set.Run();
            set.Stop(Deadline.Generous);
        }

        _vcpus[7].Interrupt(0x41);
        Assert.Equal(wakes, _vcpus.Sum(vcpu => vcpu.Wakes));
        Assert.Equal(0, taken.CurrentCount);
        _vcpus[7].Save(new ArrayBufferWriter<byte>()); // its state can be had as it is

        set.Run();
        taken.Wait("the interrupt");
        set.Stop(Deadline.Generous);
        Assert.Equal(wakes + 1, _vcpus.Sum(vcpu => vcpu.Wakes));
    }

    /// <summary>The other side of the migration: a vCPU that comes halted stays so without being woken, until its time.</summary>
    [Fact]
    public void A_vCPU_that_was_halted_where_it_was_saved_starts_halted()
    {
        var time = new ManualTime();
        using var stepped = new SemaphoreSlim(0);
        var program = new Program(cpu =>
        {
            bool first = cpu.Registers.General[0]++ == 0;
            cpu.Halt(first ? 5_000_000 : ulong.MaxValue);
            if (!first)
                stepped.Release();
        });
        ManagedVcpu source = Create(program, time: time);
        source.Run();
        time.Armed.Wait("the halt");
        time.Advance(TimeSpan.FromMilliseconds(2));
        Stop(source, time);
        var state = new ArrayBufferWriter<byte>();
        source.Save(state);

        ManagedVcpu destination = Create(program, time: time);
        destination.Load(destination.StateVersion, state.WrittenSpan);
        destination.Run();
        Assert.Equal((0, 0), (destination.Wakes, stepped.CurrentCount));
        time.Advance(TimeSpan.FromMilliseconds(3));
        stepped.Wait("the timer");
        Stop(destination, time);
        Assert.Equal(5_000_000UL, destination.Registers.ClockBase);
        Assert.Equal(1UL, source.Registers.General[0]);
    }

    [Fact]
    public void Steps_and_sleeps_allocate_nothing()
    {
        const ulong Turn = 100, Turns = 100;
        long least = long.MaxValue, last = 0; // the least of the turns: see Allocations
        using var done = new SemaphoreSlim(0);
        ManagedVcpu vcpu = Create(new Program(cpu =>
        {
            ulong step = cpu.Registers.General[0]++;
            cpu.Bus.Store(Counter, step);
            cpu.Halt(cpu.Clock + 1);
            if (step % Turn != 0)
                return;
            long now = GC.GetAllocatedBytesForCurrentThread();
            if (step > 0)
                least = Math.Min(least, now - last);
            last = now;
            if (step == Turn * Turns)
                done.Release();
        }));
        vcpu.Run();
        done.Wait("all turns");
        Assert.Equal(0, least);
    }

    private static void Stop(ManagedVcpu vcpu, ManualTime time)
    {
        vcpu.RequestStop();
        Assert.True(vcpu.WaitStopped(Deadline.Generous));
        Drain(time.Armed);
    }

    private static void Drain(SemaphoreSlim signal)
    {
        while (signal.Wait(0))
        {
        }
    }

    private ManagedVcpu Create(GuestProgram program, uint apicId = 0, TimeProvider? time = null, Action<ManagedVcpu>? panicked = null)
    {
        var vcpu = new ManagedVcpu(apicId, program, _ram.Bus, new LocalApics(), time ?? TimeProvider.System, panicked ?? (_ => { }));
        _vcpus.Add(vcpu);
        return vcpu;
    }

    private void Place(IMmioHandler handler) =>
        _ram.Topology.Add(_ram.Topology.SystemRoot, BusAddress.FromGpa(Device), new MmioRegion("test", 4096, handler));

    private sealed class Program(Action<GuestCpu> step, Action<GuestCpu, byte>? interrupt = null) : GuestProgram
    {
        public override string Name => "test";

        public override void Step(GuestCpu cpu) => step(cpu);

        public override void Interrupt(GuestCpu cpu, byte vector) => interrupt?.Invoke(cpu, vector);

        public override void Panic(GuestCpu cpu, string text)
        {
        }

        public override GuestReport ReadReport(GuestBus memory) => new() { Name = Name, Phase = "" };
    }

    private sealed class CountingDevice : IMmioHandler
    {
        private long _writes;

        public long Writes => Interlocked.Read(ref _writes);

        public uint Last { get; private set; }

        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
            Last = (uint)value;
            Interlocked.Increment(ref _writes);
        }

        public void WaitForMore(long count) =>
            Assert.True(SpinWait.SpinUntil(() => Writes >= count, Deadline.Generous), "the program does not run");
    }

    private sealed class BlockingDevice : IMmioHandler
    {
        public SemaphoreSlim Entered { get; } = new(0);

        public ManualResetEventSlim LetGo { get; } = new();

        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
            Entered.Release();
            Assert.True(LetGo.Wait(Deadline.Generous));
        }
    }
}
