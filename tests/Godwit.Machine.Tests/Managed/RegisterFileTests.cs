using System.Buffers;
using System.Buffers.Binary;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Tests;

public class RegisterFileTests
{
    [Fact]
    public void Every_bit_survives_saving_and_loading()
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        RegisterFile saved = default;
        for (int i = 0; i < RegisterFile.GeneralCount; i++)
            saved.General[i] = (ulong)random.NextInt64(long.MinValue, long.MaxValue);
        saved.ProgramCounter = (ulong)random.NextInt64();
        saved.ClockBase = (ulong)random.NextInt64();
        saved.TimerDeadline = RegisterFile.NoTimer;
        byte[] vectors = [16, 63, 64, 127, 128, 200, 255];
        foreach (byte vector in vectors)
            saved.Request(vector);
        saved.InterruptsEnabled = true;
        saved.Halted = random.Next(2) == 1;
        saved.Panicked = !saved.Halted;

        var writer = new ArrayBufferWriter<byte>();
        saved.Save(writer);
        Assert.Equal(RegisterFile.StateSize, writer.WrittenCount);
        RegisterFile loaded = RegisterFile.Load(RegisterFile.StateVersion, writer.WrittenSpan);

        for (int i = 0; i < RegisterFile.GeneralCount; i++)
            Assert.True(saved.General[i] == loaded.General[i], $"register {i}, seed {seed}");
        Assert.Equal(saved.ProgramCounter, loaded.ProgramCounter);
        Assert.Equal(saved.ClockBase, loaded.ClockBase);
        Assert.Equal(saved.TimerDeadline, loaded.TimerDeadline);
        Assert.Equal((saved.InterruptsEnabled, saved.Halted, saved.Panicked), (loaded.InterruptsEnabled, loaded.Halted, loaded.Panicked));
        foreach (byte expected in vectors.Reverse())
        {
            Assert.True(loaded.TryTakeInterrupt(out byte vector));
            Assert.Equal(expected, vector); // highest first
        }

        Assert.False(loaded.TryTakeInterrupt(out _));
    }

    [Fact]
    public void A_state_that_cannot_be_is_refused()
    {
        byte[] good = new byte[RegisterFile.StateSize];
        Assert.Equal(0UL, RegisterFile.Load(1, good).ProgramCounter);

        Assert.Throws<InvalidDataException>(() => RegisterFile.Load(2, good));
        Assert.Throws<InvalidDataException>(() => RegisterFile.Load(1, good.AsSpan(1)));
        Assert.Throws<InvalidDataException>(() => RegisterFile.Load(1, [.. good, 0]));
        Refuses(index: 39, 8); // unknown flag
        Refuses(index: 33, 1UL << 63); // clock before the big bang
        Refuses(index: 35, 1); // vector 0 pending

        void Refuses(int index, ulong value)
        {
            byte[] bad = [.. good];
            BinaryPrimitives.WriteUInt64LittleEndian(bad.AsSpan(index * 8), value);
            Assert.Throws<InvalidDataException>(() => RegisterFile.Load(1, bad));
        }
    }
}
