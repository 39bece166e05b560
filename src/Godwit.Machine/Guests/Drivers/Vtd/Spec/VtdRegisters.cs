namespace Godwit.Machine.Guests.Drivers.Spec;

/// <summary>The VT-d registers and structures that a driver needs (VT-d, revision 5.10; section beside each).</summary>
internal static class VtdRegisters
{
    public const ulong Capability = 0x08;              // 11.4.2
    public const ulong ExtendedCapability = 0x10;      // 11.4.3
    public const ulong GlobalCommand = 0x18;           // 11.4.4.1
    public const ulong GlobalStatus = 0x1C;            // 11.4.4.2
    public const ulong RootTableAddress = 0x20;        // 11.4.5
    public const ulong FaultStatus = 0x34;             // 11.4.7.1
    public const ulong QueueHead = 0x80;               // 11.4.9.1
    public const ulong QueueTail = 0x88;               // 11.4.9.2
    public const ulong QueueAddress = 0x90;            // 11.4.9.3
    public const ulong InterruptTableAddress = 0xB8;   // 11.4.10

    public const uint TranslationEnable = 1u << 31;    // GCMD.TE, GSTS.TES
    public const uint SetRootTable = 1u << 30;         // GCMD.SRTP, GSTS.RTPS
    public const uint InterruptRemappingEnable = 1u << 25; // GCMD.IRE, GSTS.IRES
    public const uint SetInterruptTable = 1u << 24;    // GCMD.SIRTP, GSTS.IRTPS
    public const uint QueueEnable = 1u << 26;          // GCMD.QIE, GSTS.QIES
    public const uint OneShotCommands = SetRootTable | (1u << 29) | (1u << 27) | (1u << 24);

    public const uint FaultOverflow = 1 << 0;          // FSTS.PFO
    public const uint FaultPending = 1 << 1;           // FSTS.PPF
    public const uint QueueError = 1 << 4;             // FSTS.IQE
    public const int FaultIndexShift = 8;              // FSTS.FRI
    public const ulong FaultRecordSize = 16;           // 11.4.7.6
    public const ulong FaultRecordValid = 1UL << 63;   // F, in the high half

    public const ulong WideDescriptors = 1 << 11;      // IQA.DW, 11.4.9.3
    public const ulong ScalableTables = 1 << 10;       // RTADDR.TTM = 01b, 11.4.5

    // Capability bits, 11.4.2 and 11.4.3.
    public const int MgawShift = 16;
    public const ulong MgawMask = 0x3F;
    public const ulong SagawMask = 0x1F << 8;
    public const ulong Sagaw39 = 1 << 9;
    public const ulong Sagaw48 = 1 << 10;
    public const ulong Sagaw57 = 1 << 11;
    public const ulong CachingMode = 1 << 7;
    public const int FaultOffsetShift = 24;
    public const ulong FaultOffsetMask = 0x3FF;
    public const int FaultCountShift = 40;
    public const ulong FaultCountMask = 0xFF;
    public const ulong PageSelective = 1UL << 39;
    public const int MaxAddressMaskShift = 48;
    public const ulong MaxAddressMaskMask = 0x3F;
    public const ulong QueuedInvalidation = 1 << 1;    // ECAP.QI
    public const ulong InterruptRemapping = 1 << 3;    // ECAP.IR
    public const ulong ExtendedInterrupts = 1 << 4;    // ECAP.EIM
    public const ulong PassThrough = 1 << 6;           // ECAP.PT

    public const ulong ScalableMode = 1UL << 43;       // ECAP.SMTS
    public const ulong FirstStage = 1UL << 47;         // ECAP.FSTS

    // Root and context entries, 9.1 and 9.3.
    public const ulong Present = 1;
    public const ulong ContextPassThrough = 2 << 2;    // TT = 10b
    public const int ContextDomainShift = 8;           // DID, high half

    // PASID entries, 9.6.
    public const int PasidWidthShift = 2;              // AW
    public const ulong PasidFirstStage = 1 << 6;       // PGTT
    public const ulong PasidSecondStage = 2 << 6;
    public const ulong PasidPassThrough = 4 << 6;
    public const ulong PasidFiveLevels = 1 << 2;       // FSPM = 01b, third word

    // Second-stage entries, 9.8; bits 0 and 1 of first-stage entries are P and RW, 9.7.
    public const ulong EntryRead = 1;
    public const ulong EntryWrite = 2;
    public const ulong EntryUser = 4;                  // U/S, first stage
    public const ulong EntryAddress = 0x000F_FFFF_FFFF_F000;

    // Interrupt remapping: IRTA (11.4.10), entries (9.9), messages (5.1.2.2).
    public const uint InterruptEntries = 256;          // one page
    public const ulong InterruptTableSize = 7;         // S: 2^(S + 1) entries
    public const ulong ExtendedMode = 1 << 11;         // EIME
    public const ulong EntryLevel = 1 << 4;            // TM
    public const int EntryVectorShift = 16;
    public const int EntryDestinationShift = 32;
    public const int EntryShortDestinationShift = 40;  // an xAPIC id stands in 47:40
    public const ulong VerifySource = 1 << 18;         // SVT = 01b, SQ = 00b, high half
    public const uint RemappableFormat = 0xFEE0_0010;
    public const int HandleShift = 5;

    // Descriptors, 6.5.2.
    public const ulong ContextInvalidate = 0x1;        // 6.5.2.1
    public const ulong ContextGlobal = 1 << 4;
    public const ulong ContextDevice = 3 << 4;
    public const int ContextDomainShiftInDescriptor = 16;
    public const int ContextSourceShift = 32;
    public const ulong IotlbInvalidate = 0x2;          // 6.5.2.3
    public const ulong IotlbGlobal = 1 << 4;
    public const ulong IotlbDomain = 2 << 4;
    public const ulong IotlbPages = 3 << 4;
    public const ulong IotlbDrainWrites = 1 << 6;
    public const ulong IotlbDrainReads = 1 << 7;
    public const int IotlbDomainShift = 16;
    public const ulong PasidInvalidate = 0x7;          // 6.5.2.2
    public const ulong PasidSelective = 1 << 4;
    public const ulong PasidGlobal = 3 << 4;
    public const ulong PasidIotlbInvalidate = 0x6;     // 6.5.2.4
    public const ulong PasidIotlbAll = 2 << 4;
    public const ulong PasidIotlbPages = 3 << 4;
    public const ulong InterruptInvalidate = 0x4;      // 6.5.2.8
    public const ulong InterruptSelective = 1 << 4;
    public const int InterruptMaskShift = 27;
    public const int InterruptIndexShift = 32;
    public const ulong Wait = 0x5;                     // 6.5.2.9
    public const ulong WaitStatusWrite = 1 << 5;
    public const int WaitStatusShift = 32;
}
