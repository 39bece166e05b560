using System.Buffers;
using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Godwit.Machine.Managed;

/// <summary>
/// Everything a managed vCPU is besides guest RAM. Only its own thread touches it while it executes, except the interrupt request
/// register, which devices set at any time.
/// </summary>
internal struct RegisterFile
{
    public const int GeneralCount = 32;
    public const int StateVersion = 1;
    public const ulong NoTimer = ulong.MaxValue;

    private const int Words = GeneralCount + 3 + 4 + 1;
    public const int StateSize = Words * sizeof(ulong);

    private const ulong InterruptsEnabledFlag = 1;
    private const ulong HaltedFlag = 2;
    private const ulong PanickedFlag = 4;
    private const ulong FirstLegalVectors = 0xFFFF; // 0-15 are reserved

    public GeneralRegisters General;

    /// <summary>Where the program is; each program numbers its own places.</summary>
    public ulong ProgramCounter;

    /// <summary>Nanoseconds that this vCPU has been let run up to its last stop.</summary>
    public ulong ClockBase;

    /// <summary>Guest time at which a halted vCPU wakes without an interrupt.</summary>
    public ulong TimerDeadline;

    /// <summary>The local APIC's interrupt request register, one bit a vector.</summary>
    public InterruptBits InterruptRequest;

    public bool InterruptsEnabled;
    public bool Halted;
    public bool Panicked;

    public static RegisterFile PowerOn => new() { TimerDeadline = NoTimer };

    [InlineArray(GeneralCount)]
    public struct GeneralRegisters
    {
        private ulong _first;
    }

    [InlineArray(4)]
    public struct InterruptBits
    {
        private ulong _first;
    }

    /// <summary>Sets a vector's request bit. Any thread; a full fence.</summary>
    public void Request(byte vector) => Interlocked.Or(ref InterruptRequest[vector >> 6], 1UL << (vector & 63));

    public readonly bool AnyRequested =>
        (Volatile.Read(in InterruptRequest[0]) | Volatile.Read(in InterruptRequest[1])
        | Volatile.Read(in InterruptRequest[2]) | Volatile.Read(in InterruptRequest[3])) != 0;

    /// <summary>Takes the highest requested vector (SDM vol. 3, 11.8.3.1: higher vectors have priority).</summary>
    public bool TryTakeInterrupt(out byte vector)
    {
        for (int word = 3; word >= 0; word--)
        {
            ulong bits = Volatile.Read(ref InterruptRequest[word]);
            if (bits == 0)
                continue;
            int bit = BitOperations.Log2(bits);
            Interlocked.And(ref InterruptRequest[word], ~(1UL << bit));
            vector = (byte)((word << 6) | bit);
            return true;
        }

        vector = 0;
        return false;
    }

    public readonly void Save(IBufferWriter<byte> writer)
    {
        Span<byte> bytes = writer.GetSpan(StateSize);
        int at = 0;
        for (int i = 0; i < GeneralCount; i++)
            Put(bytes, ref at, General[i]);
        Put(bytes, ref at, ProgramCounter);
        Put(bytes, ref at, ClockBase);
        Put(bytes, ref at, TimerDeadline);
        for (int i = 0; i < 4; i++)
            Put(bytes, ref at, Volatile.Read(in InterruptRequest[i]));
        Put(bytes, ref at,
            (InterruptsEnabled ? InterruptsEnabledFlag : 0) | (Halted ? HaltedFlag : 0) | (Panicked ? PanickedFlag : 0));
        writer.Advance(StateSize);

        static void Put(Span<byte> bytes, ref int at, ulong value)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[at..], value);
            at += sizeof(ulong);
        }
    }

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidDataException">The state cannot be one that <see cref="Save"/> wrote.</exception>
    public static RegisterFile Load(int version, ReadOnlySpan<byte> state)
    {
        if (version != StateVersion)
            throw new InvalidDataException($"vCPU state has version {version}; this build reads version {StateVersion}.");
        if (state.Length != StateSize)
            throw new InvalidDataException($"vCPU state has {state.Length} bytes; it must have {StateSize}.");

        RegisterFile result = default;
        for (int i = 0; i < GeneralCount; i++)
            result.General[i] = Take(ref state);
        result.ProgramCounter = Take(ref state);
        result.ClockBase = Take(ref state);
        result.TimerDeadline = Take(ref state);
        for (int i = 0; i < 4; i++)
            result.InterruptRequest[i] = Take(ref state);
        ulong flags = Take(ref state);

        if ((flags & ~(InterruptsEnabledFlag | HaltedFlag | PanickedFlag)) != 0)
            throw new InvalidDataException($"vCPU flags 0x{flags:x} have bits that do not exist; known ones are 0x7.");
        if (result.ClockBase > long.MaxValue)
            throw new InvalidDataException($"vCPU clock of {result.ClockBase} ns is beyond the limit of {long.MaxValue}.");
        if ((result.InterruptRequest[0] & FirstLegalVectors) != 0)
            throw new InvalidDataException($"vCPU has reserved vectors pending (0x{result.InterruptRequest[0] & FirstLegalVectors:x}); 0-15 do not exist.");
        result.InterruptsEnabled = (flags & InterruptsEnabledFlag) != 0;
        result.Halted = (flags & HaltedFlag) != 0;
        result.Panicked = (flags & PanickedFlag) != 0;
        return result;

        static ulong Take(ref ReadOnlySpan<byte> state)
        {
            ulong value = BinaryPrimitives.ReadUInt64LittleEndian(state);
            state = state[sizeof(ulong)..];
            return value;
        }
    }
}
